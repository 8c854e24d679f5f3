-- A list of any length, cut into jobs of at most 50,000 numbers.
SELECT id FROM sms_outbox.enqueue_bulk(
    sender => $1, recipients => $2, body => $3, iys => $4, iys_list => $5, account => $6, priority => $7::integer,
    due_at => coalesce($8, now()), expires_at => $9, provider_send_at => $10, idempotency_key => $11,
    max_attempts => $12::integer, metadata => $13, traceparent => $14) AS id
