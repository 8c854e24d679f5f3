-- Claims whose lease has run out: the worker died, froze, or could not reach the database. What happens to them is decided by
-- the lifecycle and recorded under the lost claim's own token, so two rescuers cannot both win.
-- Also counts how many workers were lost with the same job in their hands, one after the other, and how many at all
-- meanwhile: where nearly all of them held it, it may be what brings them down.
--   $1 at most   $2 how far back in ms: all that was over before is seen to (null: nothing is; a transaction elsewhere that is
--                   held open keeps an index entry for every claim there was, and this would walk them all)
WITH found AS MATERIALIZED (
    SELECT * FROM sms_outbox.jobs
    WHERE status = 'sending' AND lease_until <= now()
      AND lease_until > coalesce(now() - $2 * interval '1 millisecond', '-infinity')
    ORDER BY lease_until
    LIMIT $1
), noted AS (
    INSERT INTO sms_outbox.lost_workers (worker) SELECT DISTINCT worker FROM found WHERE worker IS NOT NULL
    ON CONFLICT DO NOTHING
), forgotten AS (
    DELETE FROM sms_outbox.lost_workers WHERE EXISTS (SELECT FROM found) AND noticed_at < now() - interval '1 day'
)
SELECT found.id, found.token, found.account, found.recipients[:] AS recipients, found.body, found.attempt,
       found.max_attempts, found.worker, coalesce(found.parked = 'alone', false) AS alone,
       (SELECT count(DISTINCT worker) FROM unnest(array_append(crashed.workers, found.worker)) AS worker) AS lost_with_it,
       (SELECT count(DISTINCT worker)
        FROM (SELECT worker FROM sms_outbox.lost_workers WHERE noticed_at >= crashed.since
              UNION ALL SELECT worker FROM found
              UNION ALL SELECT unnest(crashed.workers)) AS lost) AS lost_meanwhile,
       (extract(epoch FROM now() - found.claimed_at) * 1000)::bigint AS since_claim_ms,
       (extract(epoch FROM now() - found.ambiguous_since) * 1000)::bigint AS doubt_age_ms,
       (extract(epoch FROM found.expires_at - now()) * 1000)::bigint AS expires_in_ms
FROM found
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(log.worker), '{}') AS workers, min(log.recorded_at) AS since
    FROM sms_outbox.attempt_log AS log
    WHERE log.job_id = found.id AND log.observer = 'rescue'
      -- A worker that told how an attempt ended did not go down with it, and what was before then is forgiven.
      AND log.token > coalesce(
          (SELECT max(told.token) FROM sms_outbox.attempt_log AS told
           WHERE told.job_id = found.id AND told.observer = 'worker'), 0)
) AS crashed
ORDER BY found.lease_until
