-- Begins a reconciliation task for jobs that are uncertain, or sent without an order id. A job that was sent again since its
-- last task gets a new one.
--   $1 account   $2 at most
INSERT INTO sms_outbox.reconciliation_tasks AS task (job_id, token, account)
SELECT job.id, job.token, job.account
FROM (
    SELECT id, token, account FROM sms_outbox.jobs WHERE status = 'uncertain' AND ambiguous_since IS NOT NULL AND account = $1
    UNION ALL
    SELECT id, token, account FROM sms_outbox.jobs
    -- Older ones than the provider's longest range of reports are not reconciled.
    WHERE status = 'sent' AND order_id IS NULL AND sent_at > now() - interval '9 days' AND account = $1
) AS job
WHERE NOT EXISTS (SELECT FROM sms_outbox.reconciliation_tasks WHERE job_id = job.id AND token = job.token)
LIMIT $2
ON CONFLICT (job_id) DO UPDATE
SET token = excluded.token, begun_at = now(), next_at = now(), scans = 0, clean_scans = 0, outcome = NULL,
    candidates = '[]', note = NULL
