-- Which accounts have a message that is due and to be sent alone?
--   $1 accounts
SELECT DISTINCT account FROM sms_outbox.jobs
WHERE account = ANY ($1) AND parked = 'alone' AND parked IS NOT NULL AND status = 'queued' AND due_at <= now()
