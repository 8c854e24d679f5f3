-- What became of some messages so far; of one that was cut, as a whole.
--   $1 ids
SELECT id, status, delivery FROM sms_outbox.messages WHERE id = ANY ($1)
