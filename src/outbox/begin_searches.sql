-- Begins to look for the orders of jobs that are uncertain, or sent without an order id. One that was sent again since it was
-- last sought is sought anew.
--   $1 account   $2 at most
INSERT INTO sms_outbox.searches AS search (job_id, token, account)
SELECT job.id, job.token, job.account
FROM (
    SELECT id, token, account FROM sms_outbox.jobs WHERE status = 'uncertain' AND account = $1
    UNION ALL
    SELECT id, token, account FROM sms_outbox.jobs
    -- Older ones than the provider's longest range of reports are left alone.
    WHERE status = 'sent' AND order_id IS NULL AND sent_at > now() - interval '9 days' AND account = $1
) AS job
WHERE NOT EXISTS (SELECT FROM sms_outbox.searches WHERE job_id = job.id AND token = job.token)
LIMIT $2
ON CONFLICT (job_id) DO UPDATE
SET token = excluded.token, begun_at = now(), next_at = now(), scans = 0, clean_scans = 0, outcome = NULL,
    candidates = '[]', note = NULL
