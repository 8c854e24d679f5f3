-- How many jobs of each producer wait, due or not, except those that a pause holds.
--   $1 at most, for each priority
SELECT queued.account, waiting.producer, sum(found.jobs)::bigint AS jobs
FROM sms_outbox.queued_accounts() AS queued
CROSS JOIN LATERAL sms_outbox.queued_producers(queued.account) AS waiting
CROSS JOIN LATERAL (
    SELECT count(*) AS jobs FROM (
        SELECT FROM sms_outbox.jobs
        WHERE account = queued.account AND bulk = waiting.bulk AND priority = waiting.priority
          AND producer = waiting.producer AND status = 'queued' AND held IS NULL
        LIMIT $1) AS head
) AS found
GROUP BY queued.account, waiting.producer
ORDER BY queued.account, jobs DESC
