-- Is there anything to look for in the account's reports now? Asked by every worker every few seconds, so it must be cheap
-- where there is nothing, and write nothing.
--   $1 account
SELECT EXISTS (
    SELECT FROM sms_outbox.searches WHERE account = $1 AND next_at IS NOT NULL AND next_at <= now()
) OR EXISTS (
    SELECT FROM sms_outbox.jobs AS job
    WHERE job.account = $1 AND job.status = 'uncertain'
      AND NOT EXISTS (SELECT FROM sms_outbox.searches AS search WHERE search.job_id = job.id AND search.token = job.token)
) OR EXISTS (
    SELECT FROM sms_outbox.jobs AS job
    WHERE job.account = $1 AND job.status = 'sent' AND job.order_id IS NULL AND job.sent_at > now() - interval '9 days'
      AND NOT EXISTS (SELECT FROM sms_outbox.searches AS search WHERE search.job_id = job.id AND search.token = job.token)
)
