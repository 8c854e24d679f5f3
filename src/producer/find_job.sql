-- What became of one job. No number and no text: a producer need not be able to read them.
SELECT job.id, job.account, job.idempotency_key, job.batch_id, job.status, job.attempt, job.order_id, job.duplicate, job.duplicate_of,
       job.error_class, job.error_code, job.error_message, job.created_at, job.sent_at, job.finished_at,
       message.delivery, message.delivered_at, message.price::text AS price
FROM sms_outbox.jobs AS job
LEFT JOIN sms_outbox.messages AS message ON message.id = job.id
WHERE job.id = $1
