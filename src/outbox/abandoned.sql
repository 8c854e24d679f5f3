-- Claims whose lease has run out: the worker died, froze, or could not reach the database. The lifecycle decides
-- their outcome, and it is recorded under the lost claim's own token, so two workers cannot both recover one.
--   $1 at most   $2 how far back in ms: older ones are recovered already (null: to the beginning; while a transaction elsewhere is
--                   held open the index keeps an entry for every claim there was, and this reads them all)
SELECT id, token, account,
       coalesce(CASE WHEN array_ndims(recipients) = 1 THEN recipients[:] END, '{}') AS recipients, coalesce(body, '') AS body,
       coalesce(attempt, 1::smallint) AS attempt, coalesce(max_attempts, 1::smallint) AS max_attempts, worker,
       (extract(epoch FROM now() - claimed_at) * 1000)::bigint AS since_claim_ms,
       (extract(epoch FROM now() - ambiguous_since) * 1000)::bigint AS indeterminate_age_ms,
       (extract(epoch FROM expires_at - now()) * 1000)::bigint AS expires_in_ms
FROM sms_outbox.jobs
WHERE status = 'sending' AND lease_until <= now()
  AND lease_until > coalesce(now() - $2 * interval '1 millisecond', '-infinity')
ORDER BY lease_until
LIMIT $1
