-- The provider can be reached again: what may have been accepted, and only waits for its next repeat, is repeated as soon as its
-- last request has cooled down.
--   $1 account   $2 settle delay in ms
WITH waiting AS MATERIALIZED (
    SELECT id FROM sms_outbox.jobs
    WHERE account = $1 AND status = 'queued' AND ambiguous_since IS NOT NULL
      AND due_at > greatest(now(), claimed_at + $2 * interval '1 millisecond')
      -- Not what a person or a producer has put off.
      AND due_at < now() + interval '15 minutes'
    LIMIT 5000
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE sms_outbox.jobs AS job
SET due_at = greatest(now(), job.claimed_at + $2 * interval '1 millisecond')
WHERE job.id = ANY (ARRAY(SELECT id FROM waiting))
RETURNING job.id
