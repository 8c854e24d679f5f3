-- Searches whose job was settled otherwise meanwhile: by a late answer, by its twin, by a person.
--   $1 account
DELETE FROM sms_outbox.searches AS search
USING sms_outbox.jobs AS job
WHERE search.account = $1 AND search.next_at IS NOT NULL AND search.next_at <= now() AND job.id = search.job_id
  AND (search.token <> job.token
       OR NOT (job.status = 'uncertain' OR (job.status = 'sent' AND job.order_id IS NULL)))
