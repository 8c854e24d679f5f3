-- Takes one bulk order of an account that has none under way. Bulk orders follow the provider's other limit (50,000 numbers
-- in a request, one request after the other), so they reserve no slots and wait for no single message.
--   $1 account   $2 lease in ms   $3 worker
WITH held AS MATERIALIZED (
    SELECT coalesce(bool_or(scope = 'account'), false) AS account,
           coalesce(bool_or(scope = 'iys'), false) AS iys,
           coalesce(array_agg(sender) FILTER (WHERE scope = 'sender'), '{}') AS senders,
           -- A claim that a crash could take back would be a request without its marker.
           CASE WHEN current_setting('synchronous_commit') = 'off'
                THEN set_config('synchronous_commit', 'on', true) END AS durable
    FROM sms_outbox.pauses
    WHERE account = $1 AND ended_at IS NULL AND (until IS NULL OR until > now())
), next AS MATERIALIZED (
    -- Chosen without a lock: stepping over a locked row would let the second part of a list overtake the first, which
    -- another worker is just claiming.
    SELECT found.id
    FROM (
        -- A doubt can be settled only while the provider's guard stands: behind other orders it would come too late.
        (SELECT id
         FROM sms_outbox.jobs
         WHERE account = $1
           AND status = 'queued' AND bulk AND parked IS NULL AND ambiguous_since IS NOT NULL
           AND due_at <= now()
           AND (expires_at IS NULL OR expires_at > now())
           AND NOT ARRAY[sender] <@ (SELECT senders FROM held)
           AND NOT (iys AND (SELECT iys FROM held))
         ORDER BY ambiguous_since
         LIMIT 1)
        UNION ALL
        SELECT first.id
        FROM (VALUES (0::smallint), (1::smallint), (2::smallint), (3::smallint)) AS lane (priority)
        CROSS JOIN LATERAL (
            SELECT id
            FROM sms_outbox.jobs
            WHERE account = $1
              AND status = 'queued' AND bulk AND parked IS NULL
              AND priority = lane.priority
              AND due_at <= now()
              AND (expires_at IS NULL OR expires_at > now())
              AND NOT ARRAY[sender] <@ (SELECT senders FROM held)
              AND NOT (iys AND (SELECT iys FROM held))
            ORDER BY due_at
            LIMIT 1
        ) AS first
    ) AS found
    WHERE NOT (SELECT account FROM held)
      -- Spares the unique index jobs_one_bulk_order_at_a_time an error in the log; it decides when two ask at once.
      AND NOT EXISTS (SELECT FROM sms_outbox.jobs WHERE account = $1 AND status = 'sending' AND bulk)
    LIMIT 1
), due AS MATERIALIZED (
    SELECT id FROM sms_outbox.jobs
    WHERE id = (SELECT id FROM next) AND status = 'queued'
    FOR NO KEY UPDATE SKIP LOCKED
), claimed AS (
    UPDATE sms_outbox.jobs AS job
    SET status = 'sending', attempt = job.attempt + 1, token = job.token + 1,
        worker = $3, claimed_at = now(), lease_until = now() + $2 * interval '1 millisecond'
    WHERE job.id = ANY (ARRAY(SELECT id FROM due))
    RETURNING job.*
)
SELECT id, token, sender,
       -- Counted from 1, whatever bounds the producer's array has: drivers refuse to read others.
       recipients[:] AS recipients, body, iys, iys_list, attempt, max_attempts, traceparent, bulk, priority, due_at,
       extract(epoch FROM provider_send_at)::bigint AS provider_send_at_s,
       (extract(epoch FROM now() - ambiguous_since) * 1000)::bigint AS doubt_age_ms,
       (extract(epoch FROM expires_at - now()) * 1000)::bigint AS expires_in_ms,
       0 AS wait_us
FROM claimed
