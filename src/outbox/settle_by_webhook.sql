-- An event of the webhook fits this job and no other, and the order's report names its number: the job is sent under it. Unless
-- somebody has said meanwhile whose order it is, or the job is repeated just now.
--   $1 job   $2 token   $3 order id   $4 the evidence, in a sentence   $5 worker
WITH durable AS MATERIALIZED (
    SELECT CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END
), found AS (
    UPDATE sms_outbox.jobs AS job
    SET status = 'sent', order_id = $3, sent_at = coalesce(job.sent_at, now()), finished_at = coalesce(job.finished_at, now()),
        held = NULL, error_class = NULL, error_code = NULL, error_message = NULL
    FROM durable
    WHERE job.id = $1 AND job.token = $2
      AND (job.status = 'uncertain' OR (job.status = 'queued' AND job.ambiguous_since IS NOT NULL)
           OR (job.status = 'sent' AND job.order_id IS NULL))
      AND NOT EXISTS (SELECT FROM sms_outbox.jobs AS other WHERE other.order_id IS NOT NULL AND other.order_id = $3)
      AND NOT EXISTS (SELECT FROM sms_outbox.attempt_log AS log WHERE log.order_id IS NOT NULL AND log.order_id = $3)
    RETURNING job.id, job.account, job.token, job.attempt
), logged AS (
    INSERT INTO sms_outbox.attempt_log (
        job_id, token, observer, attempt, counted, worker, started_at, progress, evidence, order_id)
    SELECT id, token, 'webhook', attempt, false, $5, now(), 'answered', $4, $3 FROM found
    ON CONFLICT DO NOTHING
), told AS (
    INSERT INTO sms_outbox.change_log (account, jobs) SELECT account, array_agg(id) FROM found GROUP BY account
)
SELECT id FROM found
