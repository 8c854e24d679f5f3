-- Claims whose lease has run out: the worker died, froze, or could not reach the database. The lifecycle decides
-- their outcome, and it is recorded under the lost claim's own token, so two workers cannot both recover one.
--   $1 at most   $2 how far back in ms: older ones are recovered already (null: to the beginning; while a transaction elsewhere is
--                   held open the index keeps an entry for every claim there was, and this reads them all)
--   $3 at most so many bytes of numbers and texts, or one job
WITH overdue AS MATERIALIZED (
    SELECT id, lease_until FROM sms_outbox.jobs
    WHERE status = 'sending' AND lease_until <= now()
      AND lease_until > coalesce(now() - $2 * interval '1 millisecond', '-infinity')
      AND NOT EXISTS (SELECT FROM sms_outbox.refused_jobs AS row WHERE row.job_id = jobs.id AND row.retry_at > now())
    ORDER BY lease_until
    LIMIT $1
    -- What somebody else holds cannot be recorded now, and must not keep the others waiting.
    FOR NO KEY UPDATE SKIP LOCKED
), measured AS (
    SELECT overdue.id, overdue.lease_until, count(*) OVER () AS found,
           -- What it is unpacked, and not what it takes on disk.
           sum(octet_length(coalesce(job.body, '')) + coalesce(pg_column_size(job.recipients[:]), 0))
               OVER (ORDER BY overdue.lease_until, overdue.id) AS bytes,
           row_number() OVER (ORDER BY overdue.lease_until, overdue.id) AS place
    FROM overdue JOIN sms_outbox.jobs AS job ON job.id = overdue.id AND job.id = ANY (ARRAY(SELECT id FROM overdue))
)
SELECT job.id, job.token, job.account,
       coalesce(CASE WHEN array_ndims(job.recipients) = 1 THEN job.recipients[:] END, '{}') AS recipients,
       coalesce(job.body, '') AS body, coalesce(job.attempt, 1::smallint) AS attempt,
       coalesce(job.max_attempts, 1::smallint) AS max_attempts, job.worker,
       (extract(epoch FROM now() - job.claimed_at) * 1000)::bigint AS since_claim_ms,
       (extract(epoch FROM now() - job.ambiguous_since) * 1000)::bigint AS indeterminate_age_ms,
       (extract(epoch FROM job.expires_at - now()) * 1000)::bigint AS expires_in_ms,
       measured.found
FROM measured JOIN sms_outbox.jobs AS job
    ON job.id = measured.id AND job.id = ANY (ARRAY(SELECT id FROM overdue))
WHERE measured.bytes <= $3 OR measured.place = 1
ORDER BY measured.place
