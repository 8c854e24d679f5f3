-- A claim was refused, and one row may be the cause: looks at each of those that it may have met by itself, and names those that
-- the database refuses to change. Claims step over them from now on; they are tried again ever less often.
--   $1 account   $2 how far to look
WITH met AS (
    SELECT job.id
    FROM sms_outbox.queued_producers($1) AS waiting
    CROSS JOIN LATERAL (
        SELECT id FROM sms_outbox.jobs
        WHERE account = $1 AND status = 'queued' AND held IS NULL
          AND bulk = waiting.bulk AND priority = waiting.priority AND producer = waiting.producer AND due_at <= now()
          AND NOT EXISTS (SELECT FROM sms_outbox.refused_jobs AS row WHERE row.job_id = jobs.id AND row.retry_at > now())
        ORDER BY due_at, id
        LIMIT $2
    ) AS job
)
INSERT INTO sms_outbox.refused_jobs AS known (job_id, account, sqlstate, rule, retry_at)
SELECT job_id, account, code, rule, now() + interval '30 seconds'
FROM sms_outbox.refusals(ARRAY(SELECT id FROM met))
ON CONFLICT (job_id) DO UPDATE
SET sqlstate = excluded.sqlstate, rule = excluded.rule, refusals = known.refusals + 1,
    retry_at = now() + least(power(2, least(known.refusals, 10)) * interval '30 seconds', interval '1 hour')
RETURNING job_id, sqlstate, rule, refusals
