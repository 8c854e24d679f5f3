-- After a restore: makes queued jobs uncertain that were due by a moment, because the database that this one replaces may have
-- sent them.
--   $1 the moment   $2 at most
-- Piece by piece, as the partial indexes have it. A row that somebody else holds is waited for: left out, it would be sent.
WITH waiting AS MATERIALIZED (
    SELECT id FROM (
        SELECT id FROM sms_outbox.jobs WHERE status = 'queued' AND held IS NULL AND due_at <= $1
        UNION ALL
        SELECT id FROM sms_outbox.jobs WHERE status = 'queued' AND held IS NOT NULL AND due_at <= $1
    ) AS piece
    LIMIT $2
), ended AS (
    UPDATE sms_outbox.jobs AS job
    SET status = 'uncertain', held = NULL, ambiguous_since = coalesce(job.ambiguous_since, job.due_at),
        error_class = 'unknown', error_code = NULL, error_message = 'It may have been sent after the backup was made.'
    WHERE job.id = ANY (ARRAY(SELECT id FROM waiting)) AND job.status = 'queued'
    RETURNING job.id, job.account
), told AS (
    INSERT INTO sms_outbox.change_log (account, jobs) SELECT account, array_agg(id) FROM ended GROUP BY account
)
SELECT id FROM ended
