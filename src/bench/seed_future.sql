-- $1 jobs of all priorities that are not due yet.
INSERT INTO sms_outbox.jobs (sender, recipients, body, iys, priority, due_at)
SELECT 'SANDBOX', ARRAY['90532' || lpad((n % 10000000)::text, 7, '0')], 'Later ' || lpad(n::text, 9, '0') || ' is on its way.',
       false, n % 4, now() + interval '1 day' + n * interval '1 millisecond'
FROM generate_series(1, $1::bigint) AS n
