-- The provider is unavailable for an account: from now on the fleet sends nothing new. Returns a row to the worker that was first.
--   $1 account   $2 worker   $3 class   $4 message   $5 first probe after ms
INSERT INTO sms_outbox.accounts AS known
    (account, failed_at, failure_class, failure_message, outage_since, outage_by, probe_at, trial_at)
VALUES ($1, now(), $3, $4, now(), $2, now() + $5 * interval '1 millisecond', now() + 2 * $5 * interval '1 millisecond')
ON CONFLICT (account) DO UPDATE
SET failed_at = now(), failure_class = excluded.failure_class, failure_message = excluded.failure_message,
    outage_since = now(), outage_by = excluded.outage_by,
    -- Back within ten minutes of its last trial: the end was premature, so a new message is tried less often.
    trials = CASE WHEN known.trial_at > now() - interval '10 minutes' THEN known.trials ELSE 0 END,
    trial_at = CASE WHEN known.trial_at > now() - interval '10 minutes' THEN greatest(known.trial_at, excluded.trial_at)
                    ELSE excluded.trial_at END,
    probes = 0, probe_at = excluded.probe_at
WHERE known.outage_since IS NULL
RETURNING account
