-- Late answers: their claims had been lost. A refusal or a missing answer only enters the history. An acceptance is a fact about the
-- world: whatever the job has become, it is sent. If another acceptance is recorded already, both stay, and the
-- caller logs an error. A 451, or a person's resolution, is no other acceptance: then this one names the missing order.
--   $1 a JSON array, one object per claim
WITH durable AS MATERIALIZED (
    SELECT CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END
), answer AS MATERIALIZED (
    SELECT answer.*
    FROM durable, jsonb_to_recordset($1) AS answer (
        id uuid, token integer, attempt smallint, worker text, since_claim_ms bigint, spent boolean, accepted boolean,
        order_id text, duplicate boolean, content bigint, error_class text, error_message text,
        observer text, progress text, http_status smallint, provider_code integer, ms integer)
), before AS MATERIALIZED (
    SELECT job.id, job.status, job.token, job.order_id, job.ambiguous_since,
           -- An earlier try of this very record succeeded, and only its answer was lost: nothing is late.
           job.status = 'sent' AND job.token = answer.token AND job.answer_ms IS NOT NULL AS is_ours,
           job.status = 'sent' AND (
               -- The order that a person or reconciliation has found is not a second one.
               (job.order_id IS NOT NULL AND job.order_id IS DISTINCT FROM answer.order_id)
               OR (job.answer_ms IS NOT NULL AND NOT job.duplicate)
               OR EXISTS (
                   SELECT FROM sms_outbox.attempt_log AS log
                   WHERE log.job_id = job.id AND log.token <> answer.token AND log.provider_code = 200)) AS accepted_before
    FROM sms_outbox.jobs AS job JOIN answer USING (id)
    -- The id is compared twice: the planner guesses how many answers there are, and a wrong guess would make the join read
    -- the whole table. The second form can only use the primary key.
    WHERE job.id = ANY (ARRAY(SELECT id FROM answer))
    ORDER BY job.id
    FOR NO KEY UPDATE OF job
), settled AS (
    UPDATE sms_outbox.jobs AS job
    SET status = 'sent', order_id = answer.order_id, duplicate = answer.duplicate, sent_at = now(), finished_at = now(),
        lease_until = NULL, error_class = NULL, error_code = NULL, error_message = NULL,
        content_key = ((extract(epoch FROM now()) / 300)::bigint << 40) | answer.content
    FROM answer
    WHERE answer.accepted AND job.id = answer.id AND job.id = ANY (ARRAY(SELECT id FROM answer)) AND job.status <> 'sent'
    RETURNING job.id, job.account
), named AS (
    UPDATE sms_outbox.jobs AS job
    SET order_id = answer.order_id, duplicate_of = NULL
    FROM answer JOIN before USING (id)
    WHERE job.id = answer.id AND job.id = ANY (ARRAY(SELECT id FROM before)) AND before.status = 'sent'
      AND NOT before.is_ours AND NOT before.accepted_before AND answer.accepted AND NOT answer.duplicate
    RETURNING job.id, job.account
), logged AS (
    INSERT INTO sms_outbox.attempt_log (
        job_id, token, observer, attempt, counted, worker, started_at, duration_ms, progress, http_status, provider_code,
        error_class, error_message, order_id, late)
    SELECT answer.id, answer.token, answer.observer, answer.attempt, answer.spent, answer.worker,
           now() - answer.since_claim_ms * interval '1 millisecond', answer.ms, answer.progress, answer.http_status,
           answer.provider_code, answer.error_class, answer.error_message, answer.order_id, true
    FROM answer JOIN before USING (id)
    -- A rescue that lost the race knows nothing that the winner does not know.
    WHERE answer.progress IS NOT NULL AND NOT before.is_ours AND answer.observer <> 'rescue'
    ON CONFLICT DO NOTHING
    RETURNING job_id
), told AS (
    INSERT INTO sms_outbox.change_log (account, jobs) SELECT account, array_agg(id) FROM (SELECT * FROM settled UNION ALL SELECT * FROM named) AS changed GROUP BY account
)
SELECT before.id, before.status AS was, before.order_id AS known_order_id, before.is_ours, before.accepted_before,
       EXISTS (SELECT FROM settled WHERE settled.id = before.id) AS settled,
       EXISTS (SELECT FROM logged WHERE logged.job_id = before.id) AS logged
FROM before
