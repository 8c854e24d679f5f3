-- Queued jobs whose expires_at has come. One with an unanswered request behind it may have been taken in time: nobody knows,
-- and it says so.
--   $1 at most
WITH overdue AS MATERIALIZED (
    SELECT id FROM sms_outbox.jobs
    WHERE status = 'queued' AND expires_at IS NOT NULL AND expires_at <= now()
    ORDER BY expires_at
    LIMIT $1
    FOR NO KEY UPDATE SKIP LOCKED
), ended AS (
    UPDATE sms_outbox.jobs AS job
    SET status = CASE WHEN ambiguous_since IS NULL THEN 'expired' ELSE 'uncertain' END,
        held = NULL, finished_at = CASE WHEN ambiguous_since IS NULL THEN now() END
    WHERE job.id = ANY (ARRAY(SELECT id FROM overdue))
    RETURNING job.id, job.account, job.status
), told AS (
    INSERT INTO sms_outbox.change_log (account, jobs) SELECT account, array_agg(id) FROM ended GROUP BY account
)
SELECT id, status FROM ended
