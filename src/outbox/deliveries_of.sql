-- The jobs of these orders, with what is known of their deliveries. Reads nothing that a receiver may not.
--   $1 account   $2 order ids
SELECT job.id, job.order_id, job.content_key & 1099511627775 AS content, known.facts, known.places, coalesce(known.writes, 0) AS writes,
       (extract(epoch FROM now() - coalesce(job.sent_at, now())) * 1000)::bigint AS since_sent_ms,
       (extract(epoch FROM coalesce(job.sent_at, now())) * 1000000)::bigint AS sent_us
FROM sms_outbox.jobs AS job
-- Looked up one by one: a plan that is made while the table is empty, and kept, would otherwise read all of it for each batch.
LEFT JOIN LATERAL (
    SELECT delivery.facts, delivery.places, delivery.writes FROM sms_outbox.deliveries AS delivery WHERE delivery.job_id = job.id LIMIT 1
) AS known ON true
WHERE job.order_id IS NOT NULL AND job.order_id = ANY ($2) AND job.account = $1 AND job.status = 'sent'
