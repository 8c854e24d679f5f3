-- The jobs that a taken key stands for: one, or all parts of a list. No number and no text: a producer asks.
--   $1 account   $2 key
SELECT coalesce(part.id, first.id) AS id
FROM sms_outbox.jobs AS first LEFT JOIN sms_outbox.jobs AS part ON part.batch_id = first.batch_id
WHERE first.account = $1 AND first.idempotency_key = $2
ORDER BY part.created_at, part.id
