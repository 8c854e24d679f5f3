-- Marks due jobs of paused senders (or of an account whose marketing is paused) as held, so that claims do not read them: half
-- a million of them at the head of the queue made every claim of the account skip all of them, 160 ms each time. Looks at
-- the head of the queue only, which is what claims read, and once for all pauses of an account, however many there are.
--   $1 how far to look
WITH paused AS MATERIALIZED (
    SELECT DISTINCT account FROM sms_outbox.pauses
    WHERE scope <> 'account' AND ended_at IS NULL AND (until IS NULL OR until > now())
), chosen AS MATERIALIZED (
    SELECT head.id, pause.scope
    FROM paused
    CROSS JOIN LATERAL sms_outbox.queued_producers(paused.account) AS waiting
    CROSS JOIN LATERAL (
        SELECT id, sender, iys FROM sms_outbox.jobs
        WHERE account = paused.account AND bulk = waiting.bulk AND NOT waiting.bulk
          AND priority = waiting.priority AND producer = waiting.producer AND due_at <= now()
          AND status = 'queued' AND held IS NULL
        ORDER BY due_at, id
        LIMIT $1
        -- A row that somebody else holds is stepped over, and met again.
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS head
    CROSS JOIN LATERAL (
        SELECT pause.scope FROM sms_outbox.pauses AS pause
        WHERE pause.account = paused.account
          AND (pause.scope, pause.sender) IN (('sender', head.sender), (CASE WHEN head.iys THEN 'iys' END, ''))
          AND pause.ended_at IS NULL AND (pause.until IS NULL OR pause.until > now())
        LIMIT 1
    ) AS pause
)
UPDATE sms_outbox.jobs AS job SET held = (SELECT scope FROM chosen WHERE chosen.id = job.id)
WHERE job.id = ANY (ARRAY(SELECT id FROM chosen))
RETURNING job.id
