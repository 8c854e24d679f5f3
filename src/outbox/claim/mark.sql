-- What every claim ends with: the jobs are marked as "may be sent from here on" before anything leaves.
--   $2 lease in ms   $3 worker
UPDATE sms_outbox.jobs AS job
SET status = 'sending', attempt = job.attempt + 1, token = job.token + 1,
    worker = $3, claimed_at = now(), lease_until = now() + $2 * interval '1 millisecond'
-- By ctid, which cannot change while the rows are locked. A row that somebody has just changed may be locked and not found,
-- because its ctid is newer than this statement: it stays queued, for the next claim.
WHERE job.ctid = ANY (ARRAY(SELECT tid FROM granted))
-- A row that no rule has seen, or whose column has another type by now, must not keep the others from being read.
RETURNING job.id, job.token::integer AS token, coalesce(job.sender, '')::text AS sender,
          -- Counted from 1, whatever bounds the producer's array has: drivers refuse to read others, and nested ones.
          coalesce(CASE WHEN array_ndims(job.recipients) = 1 THEN job.recipients[:] END, '{}')::text[] AS recipients,
          -- Its size is known without reading it: a text that no rule has seen must not fill the worker's memory.
          CASE WHEN octet_length(job.body) <= 65536 THEN job.body ELSE '' END::text AS body,
          coalesce(job.iys, false) AS iys, job.iys_list::text AS iys_list,
          coalesce(job.attempt, 1)::smallint AS attempt, coalesce(job.max_attempts, 1)::smallint AS max_attempts,
          CASE WHEN octet_length(job.traceparent) <= 128 THEN job.traceparent END::text AS traceparent,
          job.bulk, job.priority::smallint AS priority, coalesce(job.producer, '')::text AS producer, job.due_at,
          extract(epoch FROM job.provider_send_at)::bigint AS provider_send_at_s, job.claimed_at,
          (extract(epoch FROM now() - coalesce(job.first_due_at, greatest(job.due_at, job.created_at))) * 1000)::bigint AS due_for_ms,
          (extract(epoch FROM now() - job.ambiguous_since) * 1000)::bigint AS indeterminate_age_ms,
          (extract(epoch FROM job.expires_at - now()) * 1000)::bigint AS expires_in_ms,
          (SELECT us FROM waits)[array_position((SELECT ids FROM waits), job.id)] AS wait_us
