-- Ends a pause that holds. Returns nothing if none did.
--   $1 account   $2 scope   $3 sender   $4 by
UPDATE sms_outbox.pauses
SET ended_at = now(), ended_by = $4
WHERE account = $1 AND scope = $2 AND sender = $3 AND ended_at IS NULL
RETURNING (extract(epoch FROM now() - since) * 1000)::bigint AS lasted_ms
