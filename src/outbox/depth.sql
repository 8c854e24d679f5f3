-- What waits, as far as it can be told from the indexes of open jobs: finished ones, however many there are, cost nothing. Each
-- part follows one index and has a limit: a backlog of millions is counted as "at least so many", and does not take seconds.
--   $1 accounts   $2 at most, for each account and priority
WITH level AS (
    SELECT account, priority
    FROM unnest($1::text[]) AS account
    CROSS JOIN (VALUES (0::smallint), (1::smallint), (2::smallint), (3::smallint)) AS level (priority)
), single AS (
    SELECT level.account, found.jobs, found.oldest
    FROM level CROSS JOIN LATERAL (
        SELECT count(*) AS jobs, min(due_at) AS oldest FROM (
            SELECT due_at FROM sms_outbox.jobs
            WHERE account = level.account AND priority = level.priority AND status = 'queued' AND NOT bulk AND held IS NULL
            ORDER BY due_at
            LIMIT $2) AS head
    ) AS found
), bulk AS (
    SELECT level.account, found.jobs
    FROM level CROSS JOIN LATERAL (
        SELECT count(*) AS jobs FROM (
            SELECT FROM sms_outbox.jobs
            WHERE account = level.account AND priority = level.priority AND status = 'queued' AND bulk AND held IS NULL
            ORDER BY due_at
            LIMIT $2) AS head
    ) AS found
), held AS (
    SELECT account.account, found.jobs
    FROM unnest($1::text[]) AS account (account) CROSS JOIN LATERAL (
        SELECT count(*) AS jobs FROM (
            SELECT FROM sms_outbox.jobs
            WHERE account = account.account AND status = 'queued' AND held IS NOT NULL
            ORDER BY held, sender
            LIMIT $2) AS head
    ) AS found
), uncertain AS (
    SELECT account.account, found.jobs
    FROM unnest($1::text[]) AS account (account) CROSS JOIN LATERAL (
        SELECT count(*) AS jobs FROM (
            SELECT FROM sms_outbox.jobs
            WHERE account = account.account AND status = 'uncertain' AND ambiguous_since IS NOT NULL
            ORDER BY due_at
            LIMIT $2) AS head
    ) AS found
)
SELECT 'queued' AS what, account, sum(jobs)::bigint AS value
FROM (SELECT account, jobs FROM single UNION ALL SELECT * FROM bulk UNION ALL SELECT * FROM held) AS queued
GROUP BY account
UNION ALL
SELECT 'oldest_due_ms', account, greatest(0, (extract(epoch FROM now() - min(oldest)) * 1000)::bigint)
FROM single GROUP BY account HAVING min(oldest) IS NOT NULL
UNION ALL
SELECT 'sending', account, count(*)
FROM (SELECT account FROM sms_outbox.jobs WHERE status = 'sending' ORDER BY lease_until LIMIT $2) AS head
GROUP BY account
UNION ALL
SELECT 'uncertain', account, jobs FROM uncertain WHERE jobs > 0
UNION ALL
SELECT 'paused_' || scope, account, count(*)
FROM sms_outbox.pauses WHERE ended_at IS NULL AND (until IS NULL OR until > now())
GROUP BY scope, account
