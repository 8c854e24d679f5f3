-- What waits, as far as it can be told from the indexes of open jobs: finished ones, however many there are, cost nothing. Each
-- part follows one index and has a limit: a backlog of millions is counted as "at least so many", and does not take seconds.
--   $1 accounts   $2 at most, for each account, priority and producer
WITH waiting AS MATERIALIZED (
    SELECT account.account, producers.*
    FROM unnest($1::text[]) AS account (account) CROSS JOIN LATERAL sms_outbox.queued_producers(account.account) AS producers
), counted AS MATERIALIZED (
    SELECT waiting.account, waiting.bulk, found.jobs, found.oldest
    FROM waiting CROSS JOIN LATERAL (
        SELECT count(*) AS jobs, min(due_at) AS oldest FROM (
            SELECT due_at FROM sms_outbox.jobs
            WHERE account = waiting.account AND bulk = waiting.bulk AND priority = waiting.priority
              AND producer = waiting.producer AND status = 'queued' AND held IS NULL
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
FROM (SELECT account, jobs FROM counted UNION ALL SELECT * FROM held
      UNION ALL SELECT account, 0 FROM unnest($1::text[]) AS account) AS queued
GROUP BY account
UNION ALL
SELECT 'oldest_due_ms', account, greatest(0, (extract(epoch FROM now() - min(oldest)) * 1000)::bigint)
FROM counted WHERE NOT bulk GROUP BY account HAVING min(oldest) IS NOT NULL
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
