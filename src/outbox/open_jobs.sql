-- What may have been sent by the database that this one replaces: jobs that are open, and were due by then.
--   $1 the moment
-- Piece by piece, as the partial indexes have it: finished jobs may be a hundred times as many.
WITH open AS (
    SELECT status, due_at FROM sms_outbox.jobs WHERE status = 'queued' AND held IS NULL
    UNION ALL
    SELECT status, due_at FROM sms_outbox.jobs WHERE status = 'queued' AND held IS NOT NULL
    UNION ALL
    SELECT status, due_at FROM sms_outbox.jobs WHERE status = 'sending'
)
SELECT count(*) FILTER (WHERE status = 'queued') AS queued,
       count(*) FILTER (WHERE status = 'queued' AND due_at <= $1) AS due,
       count(*) FILTER (WHERE status = 'sending') AS sending
FROM open
