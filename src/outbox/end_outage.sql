-- The provider is available again. Returns how long it was not, to the worker that was first.
--   $1 account
WITH before AS MATERIALIZED (
    SELECT account, outage_since FROM sms_outbox.accounts WHERE account = $1 AND outage_since IS NOT NULL FOR NO KEY UPDATE
)
UPDATE sms_outbox.accounts AS known
SET outage_since = NULL
FROM before
WHERE known.account = before.account
RETURNING (extract(epoch FROM now() - before.outage_since) * 1000)::bigint AS lasted_ms
