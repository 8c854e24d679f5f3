-- Uncertain jobs with orders in the provider's reports that may be theirs, the oldest first: a person says which.
--   $1 jobs (null: all)   $2 at most
SELECT task.job_id, task.candidates
FROM sms_outbox.reconciliation_tasks AS task
JOIN sms_outbox.jobs AS job ON job.id = task.job_id AND job.token = task.token
WHERE task.candidates <> '[]' AND task.outcome IS DISTINCT FROM 'found' AND job.status = 'uncertain'
  AND ($1::uuid[] IS NULL OR task.job_id = ANY ($1))
ORDER BY task.begun_at, task.job_id
LIMIT $2
