-- An operator ends pauses, whatever began them; returns those that held.
--   $1 account (null: all)   $2 scope (null: all)   $3 sender (null: all)   $4 by
UPDATE sms_outbox.pauses
SET ended_at = now(), ended_by = $4
WHERE ended_at IS NULL AND (until IS NULL OR until > now())
  AND ($1::text IS NULL OR account = $1)
  AND ($2::text IS NULL OR scope = $2)
  AND ($3::text IS NULL OR sender = $3)
RETURNING account, scope, sender, error_class, error_code, reason, paused_by, consecutive_failures,
          (extract(epoch FROM now() - since) * 1000)::bigint AS held_for_ms,
          to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS since,
          to_char(until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS until,
          to_char(probe_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS probe_at
