-- Ends a pause because a probe found the provider healthy. A person's pause is never probed: one that was begun while the
-- probe was under way stays. Returns nothing if none was ended.
--   $1 account   $2 scope   $3 sender   $4 by
UPDATE sms_outbox.pauses
SET ended_at = now(), ended_by = $4
WHERE account = $1 AND scope = $2 AND sender = $3 AND ended_at IS NULL AND probe_at IS NOT NULL
RETURNING (extract(epoch FROM now() - since) * 1000)::bigint AS lasted_ms
