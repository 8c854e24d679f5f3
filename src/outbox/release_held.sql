-- Releases held jobs that no live pause holds, whatever became of the pause that held them. Looks at one job of each paused
-- sender, and at more only where it finds one to release.
--   $1 at most
WITH RECURSIVE sample AS (
    (SELECT account, held, sender FROM sms_outbox.jobs
     WHERE status = 'queued' AND held IS NOT NULL
     ORDER BY account, held, sender
     LIMIT 1)
    UNION ALL
    SELECT next.account, next.held, next.sender
    FROM sample CROSS JOIN LATERAL (
        SELECT job.account, job.held, job.sender FROM sms_outbox.jobs AS job
        WHERE job.status = 'queued' AND job.held IS NOT NULL
          AND (job.account, job.held, job.sender) > (sample.account, sample.held, sample.sender)
        ORDER BY job.account, job.held, job.sender
        LIMIT 1) AS next
), chosen AS MATERIALIZED (
    SELECT job.id
    FROM sample
    CROSS JOIN LATERAL (
        SELECT id FROM sms_outbox.jobs
        WHERE account = sample.account AND held = sample.held AND sender = sample.sender
          AND status = 'queued' AND held IS NOT NULL
        LIMIT $1
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS job
    WHERE NOT EXISTS (
        SELECT FROM sms_outbox.pauses AS pause
        WHERE pause.account = sample.account AND pause.scope = sample.held
          AND pause.sender = CASE WHEN sample.held = 'sender' THEN sample.sender ELSE '' END
          AND pause.ended_at IS NULL AND (pause.until IS NULL OR pause.until > now()))
    LIMIT $1
)
UPDATE sms_outbox.jobs AS job SET held = NULL
WHERE job.id = ANY (ARRAY(SELECT id FROM chosen)) AND job.status = 'queued'
RETURNING job.id
