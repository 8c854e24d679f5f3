-- The provider is available again. Returns how long it was not, to the worker that was first.
--   $1 account   $2 whether an answer to an order says so: then the next outage begins anew, with a trial soon
WITH before AS MATERIALIZED (
    SELECT account, outage_since FROM sms_outbox.accounts WHERE account = $1 AND outage_since IS NOT NULL FOR NO KEY UPDATE
)
UPDATE sms_outbox.accounts AS known
SET outage_since = NULL, outage_ended_at = now(),
    trials = CASE WHEN $2 THEN 0 ELSE known.trials END, trial_at = CASE WHEN $2 THEN NULL ELSE known.trial_at END
FROM before
WHERE known.account = before.account
RETURNING (extract(epoch FROM now() - before.outage_since) * 1000)::bigint AS lasted_ms
