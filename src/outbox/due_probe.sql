-- Takes one due probe for this worker and schedules the next one, so that the fleet probes the provider once and ever less
-- often.
--   $1 accounts   $2 first probe after ms   $3 longest time between probes in ms
WITH due AS MATERIALIZED (
    SELECT account, scope, sender FROM sms_outbox.pauses
    WHERE account = ANY ($1) AND ended_at IS NULL AND probe_at <= now()
    ORDER BY probe_at
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
UPDATE sms_outbox.pauses AS pause
SET consecutive_failures = pause.consecutive_failures + 1,
    probe_at = now() + least($3::bigint, $2::bigint * power(2, least(pause.consecutive_failures, 20))) * interval '1 millisecond'
FROM due
WHERE (pause.account, pause.scope, pause.sender) = (due.account, due.scope, due.sender)
RETURNING pause.account, pause.scope, pause.sender, pause.error_class
