-- Releases held jobs whose pause is over. One that another pause holds is held anew.
--   $1 at most
WITH over AS MATERIALIZED (
    SELECT account, scope, sender FROM sms_outbox.pauses
    WHERE has_held AND (ended_at IS NOT NULL OR until <= now())
    ORDER BY ended_at
    LIMIT 1
    FOR UPDATE SKIP LOCKED
), chosen AS MATERIALIZED (
    SELECT job.id
    FROM over
    CROSS JOIN LATERAL (
        SELECT id FROM sms_outbox.jobs
        WHERE account = over.account AND held = over.scope AND (over.scope = 'iys' OR sender = over.sender)
          AND status = 'queued' AND held IS NOT NULL
        LIMIT $1
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS job
), done AS (
    UPDATE sms_outbox.pauses AS pause SET has_held = false
    FROM over
    WHERE (pause.account, pause.scope, pause.sender) = (over.account, over.scope, over.sender)
      AND NOT EXISTS (SELECT FROM chosen)
)
UPDATE sms_outbox.jobs AS job SET held = NULL
WHERE job.id = ANY (ARRAY(SELECT id FROM chosen))
RETURNING job.id
