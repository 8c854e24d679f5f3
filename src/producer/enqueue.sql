-- One message, in the caller's transaction.
INSERT INTO sms_outbox.jobs (
    id, account, sender, recipients, body, iys, iys_list, priority, due_at, expires_at, provider_send_at,
    idempotency_key, max_attempts, metadata, traceparent)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, coalesce($9, now()), $10, $11, $12, $13, $14, $15)
