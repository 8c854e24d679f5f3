-- Duplicates whose original's order has become known since.
--   $1 account
WITH named AS (
    UPDATE sms_outbox.jobs AS job
    SET order_id = original.order_id
    FROM sms_outbox.jobs AS original
    WHERE job.account = $1 AND job.status = 'sent' AND job.order_id IS NULL AND job.sent_at > now() - interval '9 days'
      AND job.duplicate_of IS NOT NULL AND original.id = job.duplicate_of AND original.order_id IS NOT NULL
    RETURNING job.id, job.account, job.duplicate_of
), told AS (
    INSERT INTO sms_outbox.change_log (account, jobs) SELECT account, array_agg(id) FROM named GROUP BY account
)
SELECT id, duplicate_of FROM named
