-- How long the first $1 of all drained jobs took, from the first claim to the record of the last one, by the database's clock;
-- how long the last quarter of them took; how many statements claimed, and how many recorded. (All rows of one statement have
-- its transaction's time. $2 is when they came: what was
-- finished before is not theirs.)
WITH done AS (
    SELECT claimed_at, sent_at, row_number() OVER (ORDER BY sent_at) AS place
    FROM sms_outbox.jobs WHERE status = 'sent' AND claimed_at >= $2
)
SELECT count(*),
       extract(epoch FROM max(sent_at) FILTER (WHERE place <= $1) - min(claimed_at))::float8,
       extract(epoch FROM max(sent_at) FILTER (WHERE place <= $1)
                        - max(sent_at) FILTER (WHERE place <= $1 * 3 / 4))::float8,
       count(DISTINCT claimed_at),
       count(DISTINCT sent_at)
FROM done
