-- Indeterminate queued jobs that nobody could repeat in time (the account was paused, no worker ran): past the guard window a
-- repeat could be a second message.
--   $1 age in ms from which a repeat is no longer guarded   $2 at most
WITH stale AS MATERIALIZED (
    SELECT id FROM sms_outbox.jobs
    WHERE status = 'queued' AND ambiguous_since IS NOT NULL
      AND ambiguous_since <= now() - $1 * interval '1 millisecond'
    ORDER BY ambiguous_since
    LIMIT $2
    FOR NO KEY UPDATE SKIP LOCKED
), ended AS (
    UPDATE sms_outbox.jobs AS job
    SET status = 'uncertain', held = NULL
    WHERE job.id = ANY (ARRAY(SELECT id FROM stale))
    RETURNING job.id, job.account
), told AS (
    INSERT INTO sms_outbox.change_log (account, jobs) SELECT account, array_agg(id) FROM ended GROUP BY account
)
SELECT id FROM ended
