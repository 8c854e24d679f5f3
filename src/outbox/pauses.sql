-- What is held back right now.
--   $1 account (null: all)
SELECT account, scope, sender, error_class, error_code, reason, paused_by, consecutive_failures,
       (extract(epoch FROM now() - since) * 1000)::bigint AS held_for_ms,
       to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS since,
       to_char(until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS until,
       to_char(probe_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS probe_at
FROM sms_outbox.pauses
WHERE ended_at IS NULL AND (until IS NULL OR until > now())
  AND ($1::text IS NULL OR account = $1)
ORDER BY account, scope, sender
