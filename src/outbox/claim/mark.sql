-- What every claim ends with: the jobs are marked as "may be sent from here on" before anything leaves.
--   $2 lease in ms   $3 worker
UPDATE sms_outbox.jobs AS job
SET status = 'sending', attempt = job.attempt + 1, token = job.token + 1,
    worker = $3, claimed_at = now(), lease_until = now() + $2 * interval '1 millisecond'
-- By ctid, which cannot change while the rows are locked. A row that somebody has just changed may be locked and not found,
-- because its ctid is newer than this statement: it stays queued, for the next claim.
WHERE job.ctid = ANY (ARRAY(SELECT tid FROM granted))
-- A row that no rule has seen (somebody has written its token) must not keep the others from being read.
RETURNING job.id, job.token, coalesce(job.sender, '') AS sender,
          -- Counted from 1, whatever bounds the producer's array has: drivers refuse to read others, and nested ones.
          coalesce(CASE WHEN array_ndims(job.recipients) = 1 THEN job.recipients[:] END, '{}') AS recipients,
          coalesce(job.body, '') AS body, coalesce(job.iys, false) AS iys, job.iys_list,
          coalesce(job.attempt, 1::smallint) AS attempt, coalesce(job.max_attempts, 1::smallint) AS max_attempts,
          job.traceparent, job.bulk, job.priority, job.due_at,
          extract(epoch FROM job.provider_send_at)::bigint AS provider_send_at_s, job.claimed_at,
          (extract(epoch FROM now() - job.ambiguous_since) * 1000)::bigint AS indeterminate_age_ms,
          (extract(epoch FROM job.expires_at - now()) * 1000)::bigint AS expires_in_ms,
          coalesce((SELECT us FROM waits)[array_position((SELECT ids FROM waits), job.id)], 0) AS wait_us
