-- Marks due jobs of paused senders (or of an account whose marketing is paused) as held, so that claims do not read them: half
-- a million of them at the head of the queue made every claim of the account skip all of them, 160 ms each time. Looks at
-- the head of the queue only, which is what claims read.
--   $1 how far to look
WITH held AS MATERIALIZED (
    SELECT account, scope, sender FROM sms_outbox.pauses
    WHERE scope <> 'account' AND ended_at IS NULL AND (until IS NULL OR until > now())
), chosen AS MATERIALIZED (
    SELECT job.id, held.account, held.scope, held.sender
    FROM held
    CROSS JOIN (VALUES (0::smallint), (1::smallint), (2::smallint), (3::smallint)) AS level (priority)
    CROSS JOIN LATERAL (
        SELECT head.id
        FROM (
            SELECT id, sender, iys FROM sms_outbox.jobs
            WHERE account = held.account AND priority = level.priority AND due_at <= now()
              AND status = 'queued' AND NOT bulk AND held IS NULL
            ORDER BY due_at
            LIMIT $1
        ) AS head
        WHERE CASE held.scope WHEN 'iys' THEN head.iys ELSE head.sender = held.sender END
    ) AS job
), marked AS (
    UPDATE sms_outbox.pauses AS pause SET has_held = true
    FROM (SELECT DISTINCT account, scope, sender FROM chosen) AS held
    WHERE (pause.account, pause.scope, pause.sender) = (held.account, held.scope, held.sender)
)
UPDATE sms_outbox.jobs AS job SET held = chosen.scope
FROM chosen
WHERE job.id = chosen.id AND job.id = ANY (ARRAY(SELECT id FROM chosen))
  -- Nothing was locked above, so that no claim waits: what was claimed meanwhile is not changed.
  -- Not `IS NULL`: with stale statistics the planner would read all of jobs_due instead of the primary key.
  AND job.status = 'queued' AND coalesce(job.held, '') = ''
RETURNING job.id
