-- What became of the job that has a key. No number and no text: a producer need not be able to read them.
SELECT id, account, idempotency_key, batch_id, status::text AS status, attempt, order_id, duplicate, duplicate_of,
    error_class::text AS error_class, error_code, error_message, created_at, sent_at, finished_at
FROM sms_outbox.jobs
WHERE account = $1 AND idempotency_key = $2
