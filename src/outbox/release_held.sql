-- Releases held jobs that no live pause holds, whatever became of the pause that held them. Looks at one job of each paused
-- sender, and at more only where it finds one to release.
--   $1 at most
WITH chosen AS MATERIALIZED (
    SELECT job.id
    FROM sms_outbox.held_senders() AS sample
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
