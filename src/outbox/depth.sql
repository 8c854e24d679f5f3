-- What waits, as far as it can be told from the indexes of open jobs: finished ones, however many there are, cost nothing. Each
-- part has the order of its index and an end: a backlog of millions is counted as "at least so many", and not for seconds.
--   $1 accounts   $2 at most, for each account and priority
WITH lane AS (
    SELECT account, priority
    FROM unnest($1::text[]) AS account
    CROSS JOIN (VALUES (0::smallint), (1::smallint), (2::smallint), (3::smallint)) AS lane (priority)
), single AS (
    SELECT lane.account, found.jobs, found.oldest
    FROM lane CROSS JOIN LATERAL (
        SELECT count(*) AS jobs, min(due_at) AS oldest FROM (
            SELECT due_at FROM sms_outbox.jobs
            WHERE account = lane.account AND priority = lane.priority AND status = 'queued' AND NOT bulk AND parked IS NULL
            ORDER BY due_at
            LIMIT $2) AS head
    ) AS found
), bulk AS (
    SELECT lane.account, found.jobs
    FROM lane CROSS JOIN LATERAL (
        SELECT count(*) AS jobs FROM (
            SELECT FROM sms_outbox.jobs
            WHERE account = lane.account AND priority = lane.priority AND status = 'queued' AND bulk
            ORDER BY due_at
            LIMIT $2) AS head
    ) AS found
), parked AS (
    SELECT account.account, found.jobs
    FROM unnest($1::text[]) AS account (account) CROSS JOIN LATERAL (
        SELECT count(*) AS jobs FROM (
            SELECT bulk FROM sms_outbox.jobs
            WHERE account = account.account AND status = 'queued' AND parked IS NOT NULL
            ORDER BY parked, sender
            LIMIT $2) AS head
        -- Counted above.
        WHERE NOT head.bulk
    ) AS found
)
SELECT 'queued' AS what, account, sum(jobs)::bigint AS value
FROM (SELECT account, jobs FROM single UNION ALL SELECT * FROM bulk UNION ALL SELECT * FROM parked) AS queued
GROUP BY account
UNION ALL
SELECT 'oldest_due_ms', account, greatest(0, (extract(epoch FROM now() - min(oldest)) * 1000)::bigint)
FROM single GROUP BY account HAVING min(oldest) IS NOT NULL
UNION ALL
SELECT 'sending', account, count(*)
FROM (SELECT account FROM sms_outbox.jobs WHERE status = 'sending' ORDER BY lease_until LIMIT $2) AS head
GROUP BY account
UNION ALL
SELECT 'uncertain', account, count(*)
FROM (SELECT account FROM sms_outbox.jobs WHERE status = 'uncertain' ORDER BY ambiguous_since LIMIT $2) AS head
GROUP BY account
UNION ALL
SELECT 'paused_' || scope, account, count(*)
FROM sms_outbox.pauses WHERE ended_at IS NULL AND (until IS NULL OR until > now())
GROUP BY scope, account
