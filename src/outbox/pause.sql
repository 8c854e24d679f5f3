-- Holds back an account, a sender or an account's marketing, once for the whole fleet. Returns a row only to the worker that
-- began it, so that it is reported once and not by every request that met the same failure.
--   $1 account  $2 scope  $3 sender  $4 class  $5 code  $6 reason  $7 by  $8 ends after ms (null: by probe or by hand)
--   $9 first probe after ms (null: never)  $10 longest time between probes in ms
--   $11 if it comes back soon it lasts twice as long each time, up to so many ms (null: always as long)
INSERT INTO sms_outbox.pauses AS pause
    (account, scope, sender, error_class, error_code, reason, paused_by, until, probe_at)
VALUES ($1, $2, $3, $4, $5, $6, $7,
        now() + $8::bigint * interval '1 millisecond',
        now() + $9::bigint * interval '1 millisecond')
ON CONFLICT (account, scope, sender) DO UPDATE
SET error_class = excluded.error_class, error_code = excluded.error_code, reason = excluded.reason,
    paused_by = excluded.paused_by, since = now(),
    until = now() + least(coalesce($11::bigint, $8::bigint), $8::bigint * power(2, least(
            CASE WHEN coalesce(pause.ended_at, pause.until) > now() - interval '10 minutes' AND $11::bigint IS NOT NULL
                 THEN pause.consecutive_failures ELSE 0 END, 20)))
        * interval '1 millisecond',
    -- Back within ten minutes of its end: the end was premature, so ask less often.
    consecutive_failures =
        CASE WHEN coalesce(pause.ended_at, pause.until) > now() - interval '10 minutes'
             THEN pause.consecutive_failures + 1 ELSE 1 END,
    probe_at = now() + least($10::bigint, $9::bigint * power(2, least(
            CASE WHEN coalesce(pause.ended_at, pause.until) > now() - interval '10 minutes'
                 THEN pause.consecutive_failures ELSE 0 END, 20)))
        * interval '1 millisecond',
    ended_at = NULL, ended_by = NULL
WHERE pause.ended_at IS NOT NULL
   -- It has elapsed, and is not marked as ended yet.
   OR pause.until <= now()
   -- A person's pause (no class) replaces one that a failure began, which the next probe would end.
   OR (excluded.error_class IS NULL AND pause.error_class IS NOT NULL)
   -- A pause that would have ended by itself is replaced by one that lasts longer; a person's is replaced by a person's only.
   OR (pause.until IS NOT NULL AND (excluded.until IS NULL OR excluded.until > pause.until)
       AND (excluded.error_class IS NULL OR pause.error_class IS NOT NULL))
RETURNING consecutive_failures
