-- The account's single messages that are due, the most urgent first; where there is a limit, those that get a slot.
--   $4 at most   $5 recipients per second (0: no limit)   $6 window   $7 horizon
--   $8, $9 cursors: moment and id for priorities 0 to 3; a null moment: from the beginning
, due AS MATERIALIZED (
    SELECT found.*
    FROM (
        SELECT * FROM (
            SELECT ctid AS tid, true AS urgent
            FROM sms_outbox.jobs
            WHERE account = $1
              AND status = 'queued' AND NOT bulk AND held IS NULL
              AND priority = 0
              AND due_at <= now()
              AND (due_at, id) >= (coalesce(($8::timestamptz[])[1], '-infinity'), ($9::uuid[])[1])
              AND (expires_at IS NULL OR expires_at > now())
              -- Not `<> ALL`: where most rows have one sender, the planner would expect hardly any to pass, and read and sort
              -- the whole queue instead of the first entries of its index.
              AND NOT ARRAY[sender] <@ (SELECT senders FROM paused)
              AND NOT (iys AND (SELECT iys FROM paused))
            ORDER BY due_at, id
            LIMIT $4
            FOR NO KEY UPDATE SKIP LOCKED
        ) AS urgent
        UNION ALL
        -- An indeterminate job can be repeated only while the provider's guard stands: behind a long queue it would be too late.
        SELECT * FROM (
            SELECT ctid, false
            FROM sms_outbox.jobs
            WHERE account = $1
              AND status = 'queued' AND NOT bulk AND held IS NULL
              AND priority > 0 AND ambiguous_since IS NOT NULL
              AND due_at <= now()
              AND (expires_at IS NULL OR expires_at > now())
              AND NOT ARRAY[sender] <@ (SELECT senders FROM paused)
              AND NOT (iys AND (SELECT iys FROM paused))
            ORDER BY due_at
            LIMIT $4
            FOR NO KEY UPDATE SKIP LOCKED
        ) AS indeterminate
        UNION ALL
        SELECT found.*
        -- Each priority is probed by itself: one range over all of them could not stop early when the smaller priority is
        -- full of rows that are not due yet. No ORDER BY above the probes: it would read, and lock, all of them in full.
        FROM (
            SELECT priority::smallint, coalesce(($8::timestamptz[])[priority + 1], '-infinity') AS due_at,
                   ($9::uuid[])[priority + 1] AS id
            FROM generate_series(1, 3) AS priority
        ) AS probe
        CROSS JOIN LATERAL (
            SELECT ctid, false
            FROM sms_outbox.jobs
            WHERE account = $1
              AND status = 'queued' AND NOT bulk AND held IS NULL
              AND priority = probe.priority AND ambiguous_since IS NULL
              AND due_at <= now() AND (due_at, id) >= (probe.due_at, probe.id)
              AND (expires_at IS NULL OR expires_at > now())
              AND NOT ARRAY[sender] <@ (SELECT senders FROM paused)
              AND NOT (iys AND (SELECT iys FROM paused))
            ORDER BY due_at, id
            LIMIT $4
            FOR NO KEY UPDATE SKIP LOCKED
        ) AS found
    ) AS found
    WHERE NOT (SELECT account FROM paused)
    LIMIT $4
), placed AS (
    SELECT due.place, due.tid, due.urgent, job.id, cardinality(job.recipients) AS weight
    FROM (SELECT row_number() OVER ()::integer AS place, * FROM due) AS due
    CROSS JOIN LATERAL (SELECT id, recipients FROM sms_outbox.jobs WHERE ctid = due.tid) AS job
), granted AS MATERIALIZED (
    SELECT tid, NULL::uuid AS id, NULL::integer AS wait_us FROM due WHERE $5 <= 0
    UNION ALL
    SELECT placed.tid, placed.id, slot.wait_us
    FROM sms_outbox.reserve_slots(
        $1, $5, $6, $7,
        (SELECT array_agg(weight ORDER BY place) FROM placed),
        (SELECT array_agg(urgent ORDER BY place) FROM placed)) AS slot
    JOIN placed USING (place)
    -- Without a limit, or with nothing to send, the function is not even called.
    WHERE $5 > 0 AND EXISTS (SELECT FROM due)
), waits AS MATERIALIZED (
    SELECT array_agg(id) AS ids, array_agg(wait_us) AS us FROM granted WHERE $5 > 0
)
