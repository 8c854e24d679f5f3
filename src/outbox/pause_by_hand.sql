-- An operator's pause. It replaces whatever held before, and has no probe: it ends by hand, or when its time comes.
-- Returns one row: when it ends, and the reason that it replaced.
--   $1 account   $2 scope   $3 sender   $4 reason   $5 by   $6 ends after ms (null: by hand)
WITH before AS MATERIALIZED (
    SELECT reason FROM sms_outbox.pauses
    WHERE account = $1 AND scope = $2 AND sender = $3 AND ended_at IS NULL AND (until IS NULL OR until > now())
), paused AS (
    INSERT INTO sms_outbox.pauses AS pause (account, scope, sender, reason, paused_by, until)
    VALUES ($1, $2, $3, $4, $5, now() + $6::bigint * interval '1 millisecond')
    ON CONFLICT (account, scope, sender) DO UPDATE
    SET error_class = NULL, error_code = NULL, reason = excluded.reason, paused_by = excluded.paused_by, since = now(),
        until = excluded.until, probe_at = NULL, consecutive_failures = 1, ended_at = NULL, ended_by = NULL
    RETURNING until
)
SELECT to_char(paused.until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS until, before.reason AS replaced
FROM paused LEFT JOIN before ON true
