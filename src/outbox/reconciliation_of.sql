-- The state of a job's reconciliation task.
--   $1 job
SELECT task.outcome, task.scans, task.clean_scans, task.candidates, task.note,
       (extract(epoch FROM task.next_at - now()) * 1000)::bigint AS next_in_ms
FROM sms_outbox.reconciliation_tasks AS task
JOIN sms_outbox.jobs AS job ON job.id = task.job_id AND job.token = task.token
WHERE task.job_id = $1
