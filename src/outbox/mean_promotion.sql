-- An operator says that the next promotion is meant.
--   $1 within so many milliseconds
UPDATE sms_outbox.database_identity SET promotion_until = now() + $1 * interval '1 millisecond'
