-- As claim.sql, for an account without a limit: no slots, and so nothing that the claimed rows would have to be joined with.
--   $1 account   $2 hands   $3 lease in ms   $4 worker   $5, $6 floors
WITH held AS MATERIALIZED (
    SELECT coalesce(bool_or(scope = 'account'), false) AS account,
           coalesce(bool_or(scope = 'iys'), false) AS iys,
           coalesce(array_agg(sender) FILTER (WHERE scope = 'sender'), '{}') AS senders,
           -- A claim that a crash could take back would be a request without its marker.
           CASE WHEN current_setting('synchronous_commit') = 'off'
                THEN set_config('synchronous_commit', 'on', true) END AS durable
    FROM sms_outbox.pauses
    WHERE account = $1 AND ended_at IS NULL AND (until IS NULL OR until > now())
), chosen AS MATERIALIZED (
    SELECT due.place
    FROM (
        SELECT * FROM (
            SELECT ctid AS place
            FROM sms_outbox.jobs
            WHERE account = $1
              AND status = 'queued' AND NOT bulk AND parked IS NULL
              AND priority = 0
              AND due_at <= now()
              AND (due_at, id) >= (coalesce(($5::timestamptz[])[1], '-infinity'), ($6::uuid[])[1])
              AND (expires_at IS NULL OR expires_at > now())
              AND NOT ARRAY[sender] <@ (SELECT senders FROM held)
              AND NOT (iys AND (SELECT iys FROM held))
            ORDER BY due_at, id
            LIMIT $2
            FOR NO KEY UPDATE SKIP LOCKED
        ) AS urgent
        UNION ALL
        SELECT * FROM (
            SELECT ctid
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
        FROM (
            SELECT priority::smallint, coalesce(($5::timestamptz[])[priority + 1], '-infinity') AS due_at,
                   ($6::uuid[])[priority + 1] AS id
            FROM generate_series(1, 3) AS priority
        ) AS lane
        CROSS JOIN LATERAL (
            SELECT ctid
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
)
UPDATE sms_outbox.jobs AS job
SET status = 'sending', attempt = job.attempt + 1, token = job.token + 1,
    worker = $4, claimed_at = now(), lease_until = now() + $3 * interval '1 millisecond'
-- By their place in the table, which cannot change while they are locked. One that somebody has just changed may be locked
-- and not found, because its place is newer than this statement: it stays queued, for the next claim.
WHERE job.ctid = ANY (ARRAY(SELECT place FROM chosen))
RETURNING job.id, job.token, job.sender, job.recipients[:] AS recipients, job.body, job.iys, job.iys_list, job.attempt,
          job.max_attempts, job.traceparent, job.bulk, job.priority, job.due_at,
          extract(epoch FROM job.provider_send_at)::bigint AS provider_send_at_s,
          (extract(epoch FROM now() - job.ambiguous_since) * 1000)::bigint AS doubt_age_ms,
          (extract(epoch FROM job.expires_at - now()) * 1000)::bigint AS expires_in_ms,
          0 AS wait_us
