-- Takes the probe of an outage that is due, and schedules the next one, so that the fleet asks once and ever less often. Says
-- whether a new message may be tried if it is answered.
--   $1 account   $2 first probe after ms   $3 longest time between probes in ms
UPDATE sms_outbox.accounts
SET probes = probes + 1,
    probe_at = now() + least($3::bigint, $2::bigint * power(2, least(probes + 1, 20))) * interval '1 millisecond'
WHERE account = $1 AND outage_since IS NOT NULL AND probe_at <= now()
RETURNING trial_at <= now() AS trial_is_due
