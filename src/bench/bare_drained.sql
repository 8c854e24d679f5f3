-- As drained.sql, for the bare loop.
WITH done AS (
    SELECT claimed_at, done_at, row_number() OVER (ORDER BY done_at) AS place
    FROM bare_jobs WHERE done_at IS NOT NULL AND claimed_at >= $2
)
SELECT count(*),
       extract(epoch FROM max(done_at) FILTER (WHERE place <= $1) - min(claimed_at))::float8,
       extract(epoch FROM max(done_at) FILTER (WHERE place <= $1)
                        - max(done_at) FILTER (WHERE place <= $1 * 3 / 4))::float8,
       count(DISTINCT claimed_at),
       count(DISTINCT done_at)
FROM done
