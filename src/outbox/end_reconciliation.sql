-- Ends reconciliation tasks whose job was resolved meanwhile: by a late answer, by its original, by a person.
--   $1 account
DELETE FROM sms_outbox.reconciliation_tasks AS task
USING sms_outbox.jobs AS job
WHERE task.account = $1 AND task.next_at IS NOT NULL AND task.next_at <= now() AND job.id = task.job_id
  AND (task.token <> job.token
       OR NOT (job.status = 'uncertain' OR (job.status = 'sent' AND job.order_id IS NULL)))
