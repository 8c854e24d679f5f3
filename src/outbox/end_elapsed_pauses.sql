-- Marks pauses whose time has passed as ended; claims have ignored them since.
UPDATE sms_outbox.pauses
SET ended_at = until, ended_by = 'its time had passed'
WHERE ended_at IS NULL AND until <= now()
RETURNING account, scope, sender
