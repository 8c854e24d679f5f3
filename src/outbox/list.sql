-- Jobs that fit a filter, the newest first. Numbers and text are left to the reader's discretion, so they are handed over.
--   $1 ids   $2 account   $3 status   $4 error class   $5 sender   $6 batch   $7 idempotency key   $8 a recipient (normalised)
--   $9 created at least so many seconds ago   $10 at most so many seconds ago   $11 at most
--   $12 numbers of one job at most (null: all): fifty bulk orders would otherwise be fifty times 50,000 numbers
--   $13 producer   $14 delivery (none: no word yet)
WITH fitting AS MATERIALIZED (
    SELECT id
    FROM sms_outbox.jobs AS job
    WHERE ($1::uuid[] IS NULL OR id = ANY ($1))
      AND ($2::text IS NULL OR account = $2)
      AND ($3::text IS NULL OR status = $3)
      AND ($4::text IS NULL OR error_class = $4)
      AND ($5::text IS NULL OR sender = $5)
      AND ($6::uuid IS NULL OR batch_id = $6)
      AND ($7::text IS NULL OR idempotency_key = $7)
      AND ($8::text IS NULL OR EXISTS (
            SELECT FROM unnest(recipients) AS number WHERE number = $8 OR sms_outbox.normalize_number(number, true) = $8))
      AND ($9::bigint IS NULL OR created_at <= now() - $9 * interval '1 second')
      AND ($10::bigint IS NULL OR created_at >= now() - $10 * interval '1 second')
      AND ($13::text IS NULL OR producer = $13)
      AND ($14::text IS NULL OR coalesce(
            CASE WHEN status = 'split' THEN (SELECT whole.delivery FROM sms_outbox.messages AS whole WHERE whole.id = job.id)
                 ELSE (SELECT known.status FROM sms_outbox.deliveries AS known WHERE known.job_id = job.id) END,
            'none') = $14)
    ORDER BY created_at DESC, id DESC
    LIMIT $11
)
SELECT job.id, job.account, job.sender,
       (trim_array(job.recipients, greatest(cardinality(job.recipients) - $12, 0)))[:] AS recipients,
       cardinality(job.recipients) AS recipient_count, job.body, job.iys, job.iys_list, job.priority, job.idempotency_key,
       job.max_attempts,
       -- As text: jsonb holds numbers and depths that no reader has to understand.
       job.metadata::text AS metadata, job.traceparent, job.producer, job.batch_id, job.status, job.attempt, job.order_id,
       job.duplicate, job.duplicate_of, job.part_of,
       (trim_array(job.rejected_recipients, greatest(cardinality(job.rejected_recipients) - $12, 0)))[:] AS rejected_recipients,
       cardinality(job.rejected_recipients) AS rejected_count, job.error_class, job.error_code, job.error_message, job.worker,
       coalesce(whole.delivery, known.status) AS delivery, coalesce(whole.delivered, known.delivered) AS delivered,
       coalesce(whole.undelivered, known.undelivered) AS undelivered, coalesce(whole.total, known.total) AS delivery_total,
       coalesce(whole.source, known.source) AS delivery_source, coalesce(whole.conflicts, known.conflicts) AS delivery_conflicts,
       coalesce(whole.price, known.price)::text AS price,
       to_char(coalesce(whole.delivery_changed_at, known.changed_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
           AS delivery_changed_at,
       to_char(job.due_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS due_at,
       to_char(job.expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS expires_at,
       to_char(job.provider_send_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS provider_send_at,
       to_char(job.ambiguous_since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS ambiguous_since,
       to_char(job.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS created_at,
       to_char(job.sent_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS sent_at,
       to_char(job.finished_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS finished_at,
       to_char(job.claimed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS claimed_at,
       to_char(job.lease_until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS lease_until
FROM fitting
-- One by one, by their keys: a guess at how many fit must not make a join read the whole table.
CROSS JOIN LATERAL (SELECT * FROM sms_outbox.jobs WHERE jobs.id = fitting.id OFFSET 0) AS job
LEFT JOIN LATERAL (SELECT * FROM sms_outbox.deliveries WHERE deliveries.job_id = fitting.id OFFSET 0) AS known ON true
LEFT JOIN LATERAL (
    SELECT * FROM sms_outbox.messages WHERE messages.id = fitting.id AND job.status = 'split' OFFSET 0) AS whole ON true
ORDER BY job.created_at DESC, job.id DESC
