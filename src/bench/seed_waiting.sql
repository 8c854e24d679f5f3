-- Jobs that wait: $1 of them from number $2 on, all due for different times; $3: all priorities mixed instead of one.
INSERT INTO sms_outbox.jobs (sender, recipients, body, iys, priority, due_at)
SELECT 'SANDBOX', ARRAY['90532' || lpad((n % 10000000)::text, 7, '0')], 'Order ' || lpad(n::text, 9, '0') || ' is on its way.',
       false, CASE WHEN $3::boolean THEN n % 4 ELSE 1 END, now() - ($1::bigint - n + $2::bigint) * interval '1 microsecond'
FROM generate_series($2::bigint, $2::bigint + $1::bigint - 1) AS n
