-- Sent jobs whose orders the provider still holds: their moment has not come, and is not so near that it may be too late to ask.
-- The order of filters is that of cancel.sql.
--   $1 ids   $2 account   $3 error class   $4 sender   $5 batch   $6 at most
SELECT job.id, job.account, job.order_id, known.status AS delivery
FROM sms_outbox.jobs AS job
LEFT JOIN sms_outbox.deliveries AS known ON known.job_id = job.id
WHERE job.provider_send_at IS NOT NULL AND job.provider_send_at > now() + interval '1 minute'
  AND job.status = 'sent' AND job.order_id IS NOT NULL
  AND ($1::uuid[] IS NULL OR job.id = ANY ($1))
  AND ($2::text IS NULL OR job.account = $2)
  AND ($3::text IS NULL OR job.error_class = $3)
  AND ($4::text IS NULL OR job.sender = $4)
  AND ($5::uuid IS NULL OR job.batch_id = $5)
ORDER BY job.created_at, job.id
LIMIT $6
