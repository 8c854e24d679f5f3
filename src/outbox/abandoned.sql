-- Claims whose lease has run out: the worker died, froze, or could not reach the database. What happens to them is decided by
-- the lifecycle and recorded under the lost claim's own token, so two rescuers cannot both win.
--   $1 at most   $2 how far back in ms: all that was over before is seen to (null: nothing is; a transaction elsewhere that is
--                   held open keeps an index entry for every claim there was, and this would walk them all)
SELECT id, token, account, recipients[:] AS recipients, body, attempt, max_attempts, worker,
       (extract(epoch FROM now() - claimed_at) * 1000)::bigint AS since_claim_ms,
       (extract(epoch FROM now() - ambiguous_since) * 1000)::bigint AS doubt_age_ms,
       (extract(epoch FROM expires_at - now()) * 1000)::bigint AS expires_in_ms
FROM sms_outbox.jobs
WHERE status = 'sending' AND lease_until <= now()
  AND lease_until > coalesce(now() - $2 * interval '1 millisecond', '-infinity')
ORDER BY lease_until
LIMIT $1
