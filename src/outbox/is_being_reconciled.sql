-- Does the account have anything to reconcile now? Asked by every worker every few seconds, so it must be cheap
-- where there is nothing, and write nothing.
--   $1 account
SELECT EXISTS (
    SELECT FROM sms_outbox.reconciliation_tasks WHERE account = $1 AND next_at IS NOT NULL AND next_at <= now()
) OR EXISTS (
    SELECT FROM sms_outbox.jobs AS job
    WHERE job.account = $1 AND job.status = 'uncertain' AND job.ambiguous_since IS NOT NULL
      AND NOT EXISTS (SELECT FROM sms_outbox.reconciliation_tasks AS task WHERE task.job_id = job.id AND task.token = job.token)
) OR EXISTS (
    SELECT FROM sms_outbox.jobs AS job
    WHERE job.account = $1 AND job.status = 'sent' AND job.order_id IS NULL AND job.sent_at > now() - interval '9 days'
      AND NOT EXISTS (SELECT FROM sms_outbox.reconciliation_tasks AS task WHERE task.job_id = job.id AND task.token = job.token)
)
