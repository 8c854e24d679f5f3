-- One message, unless its key is taken: then the id of the job that has it.
WITH inserted AS (
    INSERT INTO sms_outbox.jobs (
        id, account, sender, recipients, body, iys, iys_list, priority, due_at, expires_at, provider_send_at,
        idempotency_key, max_attempts, metadata, traceparent)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, coalesce($9, now()), $10, $11, $12, $13, $14, $15)
    ON CONFLICT (account, idempotency_key) DO NOTHING
    RETURNING id
)
SELECT id, true AS is_new FROM inserted
UNION ALL
SELECT id, false FROM sms_outbox.jobs WHERE account = $2 AND idempotency_key = $12
