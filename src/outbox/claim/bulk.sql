-- The account's next bulk order, unless one is in flight anywhere. Bulk orders follow the provider's other limit (50,000 numbers in
-- a request, one request after the other), and wait for no single message. Those that the limit could carry are spread all the
-- same: what fits into one second gets a slot, and what fits into ten keeps the next bulk order waiting for as long as it takes.
--   $5 window   $6 horizon   $8 producers   $9 whether the oldest goes first, whatever its priority
, next AS MATERIALIZED (
    SELECT found.tid
    FROM (
        -- An indeterminate job can be repeated only while the provider's guard stands: behind other orders it would be too late.
        SELECT * FROM (
            SELECT ctid AS tid, 0 AS priority, NULL::timestamptz AS due_at, ''::text AS producer
            FROM sms_outbox.jobs
            WHERE account = $1
              AND status = 'queued' AND bulk AND held IS NULL AND ambiguous_since IS NOT NULL
              AND due_at <= now()
              AND (expires_at IS NULL OR expires_at > now())
              AND NOT (iys AND (SELECT iys FROM account))
              AND NOT ((SELECT senders FROM account) AND EXISTS (
                  SELECT FROM sms_outbox.pauses AS pause
                  WHERE pause.account = $1 AND pause.scope = 'sender' AND pause.sender = jobs.sender
                    AND pause.ended_at IS NULL AND (pause.until IS NULL OR pause.until > now())))
              AND NOT ((SELECT refused FROM account) AND EXISTS (
                  SELECT FROM sms_outbox.refused_jobs AS row WHERE row.job_id = jobs.id AND row.retry_at > now()))
            ORDER BY ambiguous_since
            LIMIT 1
            FOR NO KEY UPDATE SKIP LOCKED
        ) AS indeterminate
        UNION ALL
        SELECT * FROM (
            SELECT first.tid, level.priority, first.due_at, producer
            FROM generate_series(0, 3) AS level (priority)
            CROSS JOIN unnest($8::text[]) AS producer
            CROSS JOIN LATERAL (
                SELECT ctid AS tid, due_at
                FROM sms_outbox.jobs
                WHERE account = $1
                  AND status = 'queued' AND bulk AND held IS NULL
                  AND priority = level.priority::smallint AND jobs.producer = producer.producer
                  AND ambiguous_since IS NULL AND due_at <= now()
                  AND (expires_at IS NULL OR expires_at > now())
                  -- No part of a list before an earlier one that still waits, also when another worker is just claiming that one:
                  -- they are a microsecond apart.
                  AND (batch_id IS NULL OR NOT EXISTS (
                      SELECT FROM sms_outbox.jobs AS earlier
                      WHERE earlier.account = $1
                        AND earlier.status = 'queued' AND earlier.bulk AND earlier.held IS NULL
                        AND earlier.priority = level.priority::smallint AND earlier.producer = producer.producer
                        AND earlier.due_at < jobs.due_at AND earlier.due_at > jobs.due_at - interval '1 second'
                        AND earlier.batch_id = jobs.batch_id))
                  AND NOT (iys AND (SELECT iys FROM account))
                  AND NOT ((SELECT senders FROM account) AND EXISTS (
                      SELECT FROM sms_outbox.pauses AS pause
                      WHERE pause.account = $1 AND pause.scope = 'sender' AND pause.sender = jobs.sender
                        AND pause.ended_at IS NULL AND (pause.until IS NULL OR pause.until > now())))
                  AND NOT ((SELECT refused FROM account) AND EXISTS (
                      SELECT FROM sms_outbox.refused_jobs AS row WHERE row.job_id = jobs.id AND row.retry_at > now()))
                ORDER BY due_at, id
                LIMIT 1
                -- A row that somebody else holds is stepped over. If that is a worker which is just claiming it, the unique index
                -- jobs_one_bulk_order_at_a_time refuses one of the two claims.
                FOR NO KEY UPDATE SKIP LOCKED
            ) AS first
            WHERE NOT (SELECT outage FROM account)
            ORDER BY CASE WHEN $9 THEN 0 ELSE level.priority END, first.due_at
        ) AS fresh
    ) AS found
    WHERE NOT (SELECT paused FROM account)
      -- Spares the unique index an error in the log; it decides when two ask at once.
      AND NOT EXISTS (SELECT FROM sms_outbox.jobs WHERE account = $1 AND status = 'sending' AND bulk)
      AND NOT EXISTS (SELECT FROM sms_outbox.rate_limits WHERE account = $1 AND bulk_at > now())
    LIMIT 1
), sized AS MATERIALIZED (
    SELECT next.tid, job.id, cardinality(job.recipients) AS weight, (SELECT per_second FROM account) AS per_second
    FROM next CROSS JOIN LATERAL (SELECT id, recipients FROM sms_outbox.jobs WHERE ctid = next.tid) AS job
), slot AS MATERIALIZED (
    SELECT reserved.wait_us
    FROM sized CROSS JOIN LATERAL sms_outbox.reserve_slots($1, $4, $5, $6, ARRAY[sized.weight], ARRAY[false]) AS reserved
    WHERE sized.weight <= sized.per_second
), granted AS MATERIALIZED (
    SELECT tid, id, weight, per_second FROM sized
    WHERE per_second IS NULL OR weight > per_second OR EXISTS (SELECT FROM slot)
), spread AS (
    INSERT INTO sms_outbox.rate_limits AS known (account, first, bulk_at)
    SELECT $1, 0, now() + weight::float8 / per_second * interval '1.02 seconds' FROM granted
    WHERE weight > per_second AND weight <= 10 * per_second
    ON CONFLICT (account) DO UPDATE SET bulk_at = excluded.bulk_at
), waits AS MATERIALIZED (
    SELECT ARRAY(SELECT id FROM granted) AS ids, ARRAY(SELECT wait_us FROM slot) AS us
)
