-- The account's single messages that are due, in the order of the turns; where there is a limit, those that get a slot.
--   $5 window   $6 horizon   $8 at most
--   turns: $9 priority   $10 producer   $11, $12 cursor: moment and id   $13 at most   $14 whether it goes before what may have
--   been accepted, and reserves its slot like an urgent message
, due AS MATERIALIZED (
    SELECT found.*
    FROM (
        SELECT job.*
        -- Each priority and producer is probed by itself: one range over several could not stop early where one is full of rows
        -- that are not due yet. No ORDER BY above the probes: it would read, and lock, all of them in full.
        FROM unnest($9::smallint[], $10::text[], $11::timestamptz[], $12::uuid[], $13::integer[], $14::boolean[])
                 AS turn (priority, producer, due_at, id, quota, first)
        CROSS JOIN LATERAL (
            SELECT ctid AS tid, true AS urgent
            FROM sms_outbox.jobs
            WHERE account = $1
              AND status = 'queued' AND NOT bulk AND held IS NULL
              AND priority = turn.priority AND producer = turn.producer
              AND due_at <= now() AND (due_at, id) >= (coalesce(turn.due_at, '-infinity'), turn.id)
              AND (expires_at IS NULL OR expires_at > now())
              AND NOT (iys AND (SELECT iys FROM account))
              AND NOT ((SELECT senders FROM account) AND EXISTS (
                  SELECT FROM sms_outbox.pauses AS pause
                  WHERE pause.account = $1 AND pause.scope = 'sender' AND pause.sender = jobs.sender
                    AND pause.ended_at IS NULL AND (pause.until IS NULL OR pause.until > now())))
              AND NOT ((SELECT refused FROM account) AND EXISTS (
                  SELECT FROM sms_outbox.refused_jobs AS row WHERE row.job_id = jobs.id AND row.retry_at > now()))
            ORDER BY due_at, id
            LIMIT turn.quota
            FOR NO KEY UPDATE SKIP LOCKED
        ) AS job
        WHERE turn.first AND NOT (SELECT outage FROM account)
        UNION ALL
        -- An indeterminate job can be repeated only while the provider's guard stands: behind a long queue it would be too late.
        SELECT * FROM (
            SELECT ctid, false
            FROM sms_outbox.jobs
            WHERE account = $1
              AND status = 'queued' AND NOT bulk AND held IS NULL
              AND (priority > 0 OR (SELECT outage FROM account)) AND ambiguous_since IS NOT NULL
              AND due_at <= now()
              AND (expires_at IS NULL OR expires_at > now())
              AND NOT (iys AND (SELECT iys FROM account))
              AND NOT ((SELECT senders FROM account) AND EXISTS (
                  SELECT FROM sms_outbox.pauses AS pause
                  WHERE pause.account = $1 AND pause.scope = 'sender' AND pause.sender = jobs.sender
                    AND pause.ended_at IS NULL AND (pause.until IS NULL OR pause.until > now())))
              AND NOT ((SELECT refused FROM account) AND EXISTS (
                  SELECT FROM sms_outbox.refused_jobs AS row WHERE row.job_id = jobs.id AND row.retry_at > now()))
            ORDER BY due_at
            LIMIT $8
            FOR NO KEY UPDATE SKIP LOCKED
        ) AS indeterminate
        UNION ALL
        SELECT job.*
        FROM unnest($9::smallint[], $10::text[], $11::timestamptz[], $12::uuid[], $13::integer[], $14::boolean[])
                 AS turn (priority, producer, due_at, id, quota, first)
        CROSS JOIN LATERAL (
            SELECT ctid, false
            FROM sms_outbox.jobs
            WHERE account = $1
              AND status = 'queued' AND NOT bulk AND held IS NULL
              AND priority = turn.priority AND producer = turn.producer AND ambiguous_since IS NULL
              AND due_at <= now() AND (due_at, id) >= (coalesce(turn.due_at, '-infinity'), turn.id)
              AND (expires_at IS NULL OR expires_at > now())
              AND NOT (iys AND (SELECT iys FROM account))
              AND NOT ((SELECT senders FROM account) AND EXISTS (
                  SELECT FROM sms_outbox.pauses AS pause
                  WHERE pause.account = $1 AND pause.scope = 'sender' AND pause.sender = jobs.sender
                    AND pause.ended_at IS NULL AND (pause.until IS NULL OR pause.until > now())))
              AND NOT ((SELECT refused FROM account) AND EXISTS (
                  SELECT FROM sms_outbox.refused_jobs AS row WHERE row.job_id = jobs.id AND row.retry_at > now()))
            ORDER BY due_at, id
            LIMIT turn.quota
            FOR NO KEY UPDATE SKIP LOCKED
        ) AS job
        WHERE NOT turn.first AND NOT (SELECT outage FROM account)
    ) AS found
    WHERE NOT (SELECT paused FROM account)
    LIMIT $8
), placed AS (
    SELECT due.place, due.tid, due.urgent, job.id, cardinality(job.recipients) AS weight
    FROM (SELECT row_number() OVER ()::integer AS place, * FROM due) AS due
    CROSS JOIN LATERAL (SELECT id, recipients FROM sms_outbox.jobs WHERE ctid = due.tid) AS job
), granted AS MATERIALIZED (
    SELECT tid, NULL::uuid AS id, NULL::integer AS wait_us FROM due WHERE (SELECT per_second FROM account) IS NULL
    UNION ALL
    SELECT placed.tid, placed.id, slot.wait_us
    FROM sms_outbox.reserve_slots(
        $1, $4, $5, $6,
        (SELECT array_agg(weight ORDER BY place) FROM placed),
        (SELECT array_agg(urgent ORDER BY place) FROM placed)) AS slot
    JOIN placed USING (place)
    -- Without a limit, or with nothing to send, the function is not even called.
    WHERE (SELECT per_second FROM account) IS NOT NULL AND EXISTS (SELECT FROM due)
), waits AS MATERIALIZED (
    SELECT array_agg(id) AS ids, array_agg(wait_us) AS us FROM granted WHERE (SELECT per_second FROM account) IS NOT NULL
)
