-- What a step of the schedule comes to behind its cursor, and where that ends. Jobs are looked at in the order of change_log, by its
-- primary key and by theirs: what is decided, and what is not due, is passed by and costs nothing more. $6 bounds how many are
-- looked at, and not how many are found.
--   $1 account   the cursor: $2 xid   $3 id   $4 place   $5 age of the step in ms   $6 at most
--   $7 age in ms from which a job is left to the next step
WITH entry AS MATERIALIZED (
    SELECT log.xid, log.id, job.place, job.id AS job_id, log.account, log.at,
           log.at <= now() - $5::bigint * interval '1 millisecond'
           -- What a transaction that still runs may yet put in front of it is not passed by; none that writes here takes a minute.
           AND (log.at < now() - interval '1 minute' OR log.xid < pg_snapshot_xmin(pg_current_snapshot())) AS ripe
    FROM sms_outbox.change_log AS log
    CROSS JOIN LATERAL unnest(log.jobs) WITH ORDINALITY AS job (id, place)
    WHERE (log.xid, log.id) >= ($2::text::xid8, $3::bigint)
      AND (log.xid, log.id, job.place) > ($2::text::xid8, $3::bigint, $4::bigint)
      -- Entries that were restored from another server, which had counted further, would carry the cursor past all that is new here.
      AND log.xid <= pg_snapshot_xmax(pg_current_snapshot())
    ORDER BY log.xid, log.id, job.place
    LIMIT $6
), passed AS MATERIALIZED (
    -- Up to the first that is not ripe: the clocks of transactions are not in their order.
    SELECT * FROM (SELECT *, bool_and(ripe) OVER (ORDER BY xid, id, place) AS reached FROM entry) AS each WHERE reached
), found AS MATERIALIZED (
    SELECT job.id, job.order_id, job.priority, job.recipients, job.sent_at, known.status, known.source,
           (extract(epoch FROM now() - passed.at) * 1000)::bigint AS age_ms
    FROM passed
    -- One by one: a guess at how many there are must not make a join read the whole table.
    -- And by the id alone: said with the status, the planner would think of an index that is nearly always empty.
    CROSS JOIN LATERAL (
        SELECT id, status, order_id, priority, cardinality(recipients) AS recipients, sent_at, provider_send_at
        FROM sms_outbox.jobs
        WHERE id = passed.job_id
        LIMIT 1) AS job
    LEFT JOIN LATERAL (
        SELECT status, source FROM sms_outbox.deliveries WHERE job_id = passed.job_id LIMIT 1) AS known ON true
    WHERE passed.account = $1 AND job.status = 'sent' AND job.order_id IS NOT NULL
      -- An entry of its own: when it was sent, or got its order. Not one that tells news of its delivery.
      AND (job.sent_at = passed.at OR known.status IS NULL)
      -- The others are in due_scheduled.sql.
      AND (job.provider_send_at IS NULL OR job.provider_send_at <= passed.at)
), last AS (
    SELECT xid, id, place FROM passed ORDER BY xid DESC, id DESC, place DESC LIMIT 1
)
SELECT last.xid::text AS xid, last.id AS entry, last.place,
       (SELECT count(*) FROM passed) = $6 AS has_more,
       (SELECT count(*) FROM found) AS sent,
       (SELECT count(*) FROM found WHERE source = 'webhook' AND status NOT IN ('pending', 'unknown')) AS by_webhook,
       due.id AS job_id, due.order_id, due.priority, due.recipients, due.age_ms, due.is_sample,
       (extract(epoch FROM due.sent_at) * 1000000)::bigint AS sent_us
FROM last
LEFT JOIN (
    SELECT *, source = 'webhook' AND status NOT IN ('pending', 'unknown') AS is_sample
    FROM found
    WHERE age_ms < $7
      AND (status IS NULL OR status IN ('pending', 'unknown')
           -- One in 256 of what a webhook has decided, to see whether it tells the truth.
           OR source = 'webhook' AND get_byte(uuid_send(id), 15) = 0)
) AS due ON true
