-- The account's next bulk order, unless one is in flight anywhere. Bulk orders follow the provider's other limit (50,000
-- numbers in a request, one request after the other), so they reserve no slots and wait for no single message.
, next AS MATERIALIZED (
    -- Chosen without a lock: SKIP LOCKED would let the second part of a list overtake the first, which another worker is
    -- just claiming.
    SELECT found.id
    FROM (
        -- An indeterminate job can be repeated only while the provider's guard stands: behind other orders it would be too late.
        (SELECT id
         FROM sms_outbox.jobs
         WHERE account = $1
           AND status = 'queued' AND bulk AND held IS NULL AND ambiguous_since IS NOT NULL
           AND due_at <= now()
           AND (expires_at IS NULL OR expires_at > now())
           AND NOT ARRAY[sender] <@ (SELECT senders FROM paused)
           AND NOT (iys AND (SELECT iys FROM paused))
         ORDER BY ambiguous_since
         LIMIT 1)
        UNION ALL
        SELECT first.id
        FROM (VALUES (0::smallint), (1::smallint), (2::smallint), (3::smallint)) AS probe (priority)
        CROSS JOIN LATERAL (
            SELECT id
            FROM sms_outbox.jobs
            WHERE account = $1
              AND status = 'queued' AND bulk AND held IS NULL
              AND priority = probe.priority
              AND due_at <= now()
              AND (expires_at IS NULL OR expires_at > now())
              AND NOT ARRAY[sender] <@ (SELECT senders FROM paused)
              AND NOT (iys AND (SELECT iys FROM paused))
            ORDER BY due_at
            LIMIT 1
        ) AS first
    ) AS found
    WHERE NOT (SELECT account FROM paused)
      -- Spares the unique index jobs_one_bulk_order_at_a_time an error in the log; it decides when two ask at once.
      AND NOT EXISTS (SELECT FROM sms_outbox.jobs WHERE account = $1 AND status = 'sending' AND bulk)
    LIMIT 1
), granted AS MATERIALIZED (
    SELECT ctid AS tid FROM sms_outbox.jobs
    WHERE id = (SELECT id FROM next) AND status = 'queued'
    FOR NO KEY UPDATE SKIP LOCKED
), waits AS (
    SELECT NULL::uuid[] AS ids, NULL::integer[] AS us
)
