-- Records everything that is not a plain acceptance: retries, refusals, duplicates, released claims. Guarded like record_sent;
-- what is recorded is also appended to the history, unless no request was made.
--   $1 a JSON array, one object per claim
WITH durable AS MATERIALIZED (
    SELECT CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END
), answer AS MATERIALIZED (
    SELECT answer.*
    FROM durable, jsonb_to_recordset($1) AS answer (
        id uuid, token integer, status text, spent boolean, delay_ms bigint, indeterminate boolean,
        order_id text, duplicate boolean, rejected text[], content bigint,
        error_class text, error_code integer, error_message text,
        observer text, progress text, http_status smallint, provider_code integer, ms integer)
), original AS MATERIALIZED (
    -- Whose message made the provider say 451? One of ours with the same numbers and text, accepted or indeterminate, a short
    -- while ago: the older documentation's ten minutes, and as many more as the five-minute numbers take to cover them.
    SELECT answer.id, found.id AS original_id, found.order_id
    FROM answer
    JOIN sms_outbox.jobs AS self ON self.id = answer.id AND self.id = ANY (ARRAY(SELECT id FROM answer))
    CROSS JOIN LATERAL (
        SELECT job.id, job.order_id
        FROM (
            SELECT * FROM sms_outbox.jobs
            WHERE content_key = ANY (ARRAY(
                SELECT (((extract(epoch FROM now()) / 300)::bigint - back) << 40) | answer.content
                FROM generate_series(0, 3) AS back))
            -- Keeps what follows out of the choice of an index: with stale statistics the account would be chosen.
            OFFSET 0
        ) AS job
        WHERE job.id <> self.id AND job.account = self.account AND normalize(job.body, NFC) = normalize(self.body, NFC)
          AND NOT job.duplicate AND (job.status = 'sent' OR job.ambiguous_since IS NOT NULL)
          -- One that was indeterminate itself is most likely its own original: another sender's message proves nothing then.
          AND (self.ambiguous_since IS NULL OR job.sender = self.sender)
        ORDER BY job.order_id IS NULL, job.sender <> self.sender, job.sent_at DESC
        LIMIT 1
    ) AS found
    WHERE answer.duplicate
), recorded AS (
    UPDATE sms_outbox.jobs AS job
    SET status = answer.status,
        attempt = CASE WHEN answer.spent THEN job.attempt ELSE job.attempt - 1 END,
        due_at = CASE WHEN answer.status = 'queued' AND answer.delay_ms > 0
                      THEN now() + answer.delay_ms * interval '1 millisecond' ELSE job.due_at END,
        first_due_at = CASE WHEN answer.status = 'queued' AND answer.delay_ms > 0
                            THEN coalesce(job.first_due_at, greatest(job.due_at, job.created_at)) ELSE job.first_due_at END,
        order_id = coalesce(answer.order_id, (SELECT original.order_id FROM original WHERE original.id = answer.id)),
        duplicate = answer.duplicate,
        duplicate_of = (SELECT original.original_id FROM original WHERE original.id = answer.id),
        rejected_recipients = coalesce(answer.rejected, job.rejected_recipients),
        error_class = CASE WHEN answer.spent OR answer.error_class IS NOT NULL THEN answer.error_class ELSE job.error_class END,
        error_code = CASE WHEN answer.spent OR answer.error_class IS NOT NULL THEN answer.error_code ELSE job.error_code END,
        error_message = CASE WHEN answer.spent OR answer.error_class IS NOT NULL THEN answer.error_message
                             ELSE job.error_message END,
        ambiguous_since = CASE WHEN answer.indeterminate THEN coalesce(job.ambiguous_since, job.claimed_at)
                               ELSE job.ambiguous_since END,
        content_key = CASE WHEN answer.indeterminate OR answer.status = 'sent'
                        THEN ((extract(epoch FROM now()) / 300)::bigint << 40) | answer.content ELSE job.content_key END,
        sent_at = CASE WHEN answer.status = 'sent' THEN now() END,
        finished_at = CASE WHEN answer.status IN ('sent', 'failed', 'expired') THEN now() END,
        answer_http_status = CASE WHEN answer.status = 'sent' THEN answer.http_status END,
        answer_ms = CASE WHEN answer.status = 'sent' THEN answer.ms END,
        lease_until = NULL
    FROM answer
    -- The id is compared twice: the planner guesses how many answers there are, and a wrong guess would make the join read
    -- the whole table. The second form can only use the primary key.
    WHERE job.id = answer.id AND job.id = ANY (ARRAY(SELECT id FROM answer))
      AND job.token = answer.token AND job.status = 'sending'
    RETURNING job.id, job.token, job.account, job.status, job.worker, job.claimed_at,
              CASE WHEN answer.spent THEN job.attempt ELSE job.attempt + 1 END AS attempt,
              job.order_id, job.duplicate_of
), logged AS (
    INSERT INTO sms_outbox.attempt_log (
        job_id, token, observer, attempt, counted, worker, started_at, duration_ms, progress, http_status, provider_code,
        error_class, error_message, order_id)
    SELECT recorded.id, recorded.token, answer.observer, recorded.attempt, answer.spent, recorded.worker,
           recorded.claimed_at, answer.ms, answer.progress, answer.http_status, answer.provider_code,
           answer.error_class, answer.error_message, answer.order_id
    FROM recorded JOIN answer USING (id)
    WHERE answer.progress IS NOT NULL AND answer.status <> 'sent'
    ON CONFLICT DO NOTHING
), told AS (
    INSERT INTO sms_outbox.change_log (account, jobs) SELECT account, array_agg(id) FROM recorded WHERE status <> 'queued' GROUP BY account
)
SELECT id, order_id, duplicate_of FROM recorded
