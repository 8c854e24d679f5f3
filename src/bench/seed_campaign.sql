-- $1 messages of a campaign, each to 1 to $2 numbers (a different count from one to the next, the same ones in every run).
INSERT INTO sms_outbox.jobs (sender, recipients, body, iys, priority)
SELECT 'SANDBOX',
       ARRAY(SELECT '90532' || lpad(((n * 10 + m) % 10000000)::text, 7, '0') FROM generate_series(1, 1 + n * 7919 % $2::int) AS m),
       'Campaign ' || lpad(n::text, 9, '0'), false, 3
FROM generate_series(1, $1::bigint) AS n
