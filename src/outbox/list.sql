-- Jobs that fit a filter, the newest first. Numbers and text are left to the reader's discretion, so they are handed over.
--   $1 ids   $2 account   $3 status   $4 error class   $5 sender   $6 batch   $7 idempotency key   $8 a recipient (normalised)
--   $9 created at least so many seconds ago   $10 at most so many seconds ago   $11 at most
--   $13 producer
--   $12 numbers of one job at most (null: all): fifty bulk orders would otherwise be fifty times 50,000 numbers
SELECT id, account, sender, (trim_array(recipients, greatest(cardinality(recipients) - $12, 0)))[:] AS recipients,
       cardinality(recipients) AS recipient_count, body, iys, iys_list, priority, idempotency_key, max_attempts,
       -- As text: jsonb holds numbers and depths that no reader has to understand.
       metadata::text AS metadata, traceparent, producer, batch_id, status, attempt, order_id, duplicate, duplicate_of, part_of,
       (trim_array(rejected_recipients, greatest(cardinality(rejected_recipients) - $12, 0)))[:] AS rejected_recipients,
       cardinality(rejected_recipients) AS rejected_count, error_class, error_code,
       error_message, worker,
       to_char(due_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS due_at,
       to_char(expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS expires_at,
       to_char(provider_send_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS provider_send_at,
       to_char(ambiguous_since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS ambiguous_since,
       to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS created_at,
       to_char(sent_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS sent_at,
       to_char(finished_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS finished_at,
       to_char(claimed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS claimed_at,
       to_char(lease_until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS lease_until
FROM sms_outbox.jobs
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
ORDER BY created_at DESC, id DESC
LIMIT $11
