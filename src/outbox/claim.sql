-- Takes what is due of one account's single messages, as many as there are free hands and free slots, and marks them as
-- "may be sent from here on" before anything leaves.
--   $1 account   $2 hands   $3 lease in ms   $4 worker   $5 recipients per second (0: no limit)   $6 window   $7 horizon
--   $8, $9 floors: moment and id for priorities 0 to 3; a null moment: from the beginning
WITH held AS MATERIALIZED (
    SELECT coalesce(bool_or(scope = 'account'), false) AS account,
           coalesce(bool_or(scope = 'iys'), false) AS iys,
           coalesce(array_agg(sender) FILTER (WHERE scope = 'sender'), '{}') AS senders,
           -- A claim that a crash could take back would be a request without its marker.
           CASE WHEN current_setting('synchronous_commit') = 'off'
                THEN set_config('synchronous_commit', 'on', true) END AS durable
    FROM sms_outbox.pauses
    WHERE account = $1 AND ended_at IS NULL AND (until IS NULL OR until > now())
), candidates AS MATERIALIZED (
    SELECT row_number() OVER ()::integer AS place, due.id, due.weight, due.urgent
    FROM (
        SELECT * FROM (
            SELECT id, cardinality(recipients) AS weight, true AS urgent
            FROM sms_outbox.jobs
            WHERE account = $1
              AND status = 'queued' AND NOT bulk AND parked IS NULL
              AND priority = 0
              AND due_at <= now()
              AND (due_at, id) >= (coalesce(($8::timestamptz[])[1], '-infinity'), ($9::uuid[])[1])
              AND (expires_at IS NULL OR expires_at > now())
              -- Not `<> ALL`: where most rows have one sender, the planner would expect hardly any to pass, and read and sort
              -- the whole queue instead of the first entries of its index.
              AND NOT ARRAY[sender] <@ (SELECT senders FROM held)
              AND NOT (iys AND (SELECT iys FROM held))
            ORDER BY due_at, id
            LIMIT $2
            FOR NO KEY UPDATE SKIP LOCKED
        ) AS urgent
        UNION ALL
        -- A doubt can be settled only while the provider's guard stands: behind a long queue it would come too late.
        SELECT * FROM (
            SELECT id, cardinality(recipients), false
            FROM sms_outbox.jobs
            WHERE account = $1
              AND status = 'queued' AND NOT bulk AND parked IS NULL
              AND priority > 0 AND ambiguous_since IS NOT NULL
              AND due_at <= now()
              AND (expires_at IS NULL OR expires_at > now())
              AND NOT ARRAY[sender] <@ (SELECT senders FROM held)
              AND NOT (iys AND (SELECT iys FROM held))
            ORDER BY due_at
            LIMIT $2
            FOR NO KEY UPDATE SKIP LOCKED
        ) AS doubtful
        UNION ALL
        SELECT found.*
        -- Each priority is probed by itself: one range over all of them could not stop early when the smaller priority is
        -- full of rows that are not due yet. No ORDER BY above the probes: it would read, and lock, all of them in full.
        FROM (
            SELECT priority::smallint, coalesce(($8::timestamptz[])[priority + 1], '-infinity') AS due_at,
                   ($9::uuid[])[priority + 1] AS id
            FROM generate_series(1, 3) AS priority
        ) AS lane
        CROSS JOIN LATERAL (
            SELECT id, cardinality(recipients), false
            FROM sms_outbox.jobs
            WHERE account = $1
              AND status = 'queued' AND NOT bulk AND parked IS NULL
              AND priority = lane.priority AND ambiguous_since IS NULL
              AND due_at <= now() AND (due_at, id) >= (lane.due_at, lane.id)
              AND (expires_at IS NULL OR expires_at > now())
              AND NOT ARRAY[sender] <@ (SELECT senders FROM held)
              AND NOT (iys AND (SELECT iys FROM held))
            ORDER BY due_at, id
            LIMIT $2
            FOR NO KEY UPDATE SKIP LOCKED
        ) AS found
    ) AS due
    WHERE NOT (SELECT account FROM held)
    LIMIT $2
), granted AS MATERIALIZED (
    SELECT id, place, 0 AS wait_us FROM candidates WHERE $5 <= 0
    UNION ALL
    SELECT candidates.id, candidates.place, slot.wait_us
    FROM sms_outbox.reserve_slots(
        $1, $5, $6, $7,
        (SELECT array_agg(weight ORDER BY place) FROM candidates),
        (SELECT array_agg(urgent ORDER BY place) FROM candidates)) AS slot
    JOIN candidates USING (place)
    -- Without a limit, or with nothing to send, the function is not even called.
    WHERE $5 > 0 AND EXISTS (SELECT FROM candidates)
), claimed AS (
    UPDATE sms_outbox.jobs AS job
    SET status = 'sending', attempt = job.attempt + 1, token = job.token + 1,
        worker = $4, claimed_at = now(), lease_until = now() + $3 * interval '1 millisecond'
    -- The one form that can only be answered by the primary key: a join would rest on the estimate of a CTE's size, which is
    -- a guess, and a wrong one would read the whole table.
    WHERE job.id = ANY (ARRAY(SELECT id FROM granted))
    RETURNING job.*
)
SELECT id, token, sender,
       -- Counted from 1, whatever bounds the producer's array has: drivers refuse to read others.
       recipients[:] AS recipients, body, iys, iys_list, attempt, max_attempts, traceparent, bulk, priority, due_at,
       extract(epoch FROM provider_send_at)::bigint AS provider_send_at_s,
       (extract(epoch FROM now() - ambiguous_since) * 1000)::bigint AS doubt_age_ms,
       (extract(epoch FROM expires_at - now()) * 1000)::bigint AS expires_in_ms,
       wait_us
FROM claimed JOIN granted USING (id)
ORDER BY granted.place
