-- Which jobs fit, the oldest first. Whoever changes many jobs takes their ids first and then goes through them a few at a
-- time: one statement for a million rows would outlive its deadline, and a job that comes round again is not taken twice.
--   $1 ids   $2 account   $3 status   $4 error class   $5 sender   $6 batch   $7 idempotency key   $8 a recipient (normalised)
--   $9 created at least so many seconds ago   $10 at most so many seconds ago   $11 at most
--   $12 whether an unanswered request stands behind them (null: either)
SELECT id
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
  AND ($12::boolean IS NULL OR (ambiguous_since IS NOT NULL) = $12)
ORDER BY created_at, id
LIMIT $11
