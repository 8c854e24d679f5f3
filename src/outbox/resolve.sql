-- An operator resolves an uncertain job, and the history keeps who said so and why.
--   $1 id   $2 sent, queued or failed   $3 order id   $4 whether another job may have the order too
--   $5 the operator's name (null: the database role is all there is)   $6 why
WITH others AS MATERIALIZED (
    SELECT id FROM sms_outbox.jobs WHERE order_id IS NOT NULL AND order_id = $3 AND id <> $1
    UNION
    SELECT job_id FROM sms_outbox.attempt_log WHERE order_id IS NOT NULL AND order_id = $3 AND job_id <> $1
), before AS MATERIALIZED (
    SELECT id, attempt FROM sms_outbox.jobs WHERE id = $1 FOR NO KEY UPDATE
), resolved AS (
    UPDATE sms_outbox.jobs AS job
    SET status = $2,
        order_id = $3,
        sent_at = CASE WHEN $2 = 'sent' THEN now() END,
        finished_at = CASE WHEN $2 IN ('sent', 'failed') THEN now() END,
        -- To resend is to accept that it may arrive twice: the job is no longer indeterminate, or it would become uncertain again.
        ambiguous_since = CASE WHEN $2 = 'queued' THEN NULL ELSE job.ambiguous_since END,
        attempt = CASE WHEN $2 = 'queued' THEN 0 ELSE job.attempt END,
        due_at = CASE WHEN $2 = 'queued' THEN now() ELSE job.due_at END,
        first_due_at = CASE WHEN $2 = 'queued' THEN NULL ELSE job.first_due_at END,
        held = NULL,
        error_class = CASE WHEN $2 = 'sent' THEN NULL ELSE coalesce(job.error_class, 'unknown') END,
        error_code = CASE WHEN $2 = 'sent' THEN NULL ELSE job.error_code END,
        error_message = CASE WHEN $2 = 'sent' THEN NULL WHEN $2 = 'failed' THEN 'Given up by hand.' ELSE job.error_message END
    FROM before
    WHERE job.id = before.id AND job.id = $1 AND job.status = 'uncertain'
      -- It would end as expired, which says that it was never accepted; and that is what nobody knows.
      AND ($2 <> 'queued' OR job.expires_at IS NULL OR job.expires_at > now())
      AND ($4 OR NOT EXISTS (SELECT FROM others))
    RETURNING job.id, job.account, job.token, before.attempt
), logged AS (
    INSERT INTO sms_outbox.attempt_log (job_id, token, observer, attempt, counted, started_at, order_id, said_by, evidence)
    SELECT id, token, 'operator', attempt, false, now(), $3,
           CASE WHEN $5::text IS NULL THEN session_user ELSE $5 || ' (' || session_user || ')' END,
           'Resolved: ' || CASE $2 WHEN 'sent' THEN 'it arrived' WHEN 'queued' THEN 'sent again' ELSE 'given up' END
               || coalesce(', beside ' || (SELECT string_agg(others.id::text, ', ') FROM others), '')
               || coalesce('. ' || $6, '.')
    FROM resolved
), told AS (
    INSERT INTO sms_outbox.change_log (account, jobs) SELECT account, array_agg(id) FROM resolved GROUP BY account
)
SELECT id FROM resolved
