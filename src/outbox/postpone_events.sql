-- These events are looked at again later.
--   $1 ids   $2 for each, in how many ms
UPDATE sms_outbox.delivery_inbox AS event
SET next_at = now() + later.ms * interval '1 millisecond'
FROM unnest($1::bigint[], $2::bigint[]) AS later (id, ms)
WHERE event.id = later.id AND event.id = ANY ($1)
