-- These events are matched, or worth nothing.
--   $1 ids
DELETE FROM sms_outbox.delivery_inbox WHERE id = ANY ($1)
