-- Whose jobs wait in an account, due or not, except those that a pause holds.
--   $1 account
SELECT bulk, priority, producer FROM sms_outbox.queued_producers($1)
