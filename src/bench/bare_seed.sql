-- $1 jobs, from number $2 on.
INSERT INTO bare_jobs (id, sender, recipient, body)
SELECT n, 'SANDBOX', '90532' || lpad((n % 10000000)::text, 7, '0'), 'Order ' || lpad(n::text, 9, '0') || ' is on its way.'
FROM generate_series($2::bigint, $2::bigint + $1::bigint - 1) AS n
