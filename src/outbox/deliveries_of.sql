-- The jobs of these orders, with what is known of their deliveries. Reads nothing that a receiver may not.
--   $1 account   $2 order ids
SELECT job.id, job.order_id, job.content_key & 1099511627775 AS content, known.facts, known.places, coalesce(known.writes, 0) AS writes,
       (extract(epoch FROM now() - job.sent_at) * 1000)::bigint AS since_sent_ms
FROM sms_outbox.jobs AS job
LEFT JOIN sms_outbox.deliveries AS known ON known.job_id = job.id
WHERE job.order_id IS NOT NULL AND job.order_id = ANY ($2) AND job.account = $1 AND job.status = 'sent'
