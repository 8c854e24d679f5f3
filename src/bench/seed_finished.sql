-- $1 jobs that were sent yesterday, with everything that a worker would have written.
INSERT INTO sms_outbox.jobs (
    sender, recipients, body, iys, priority, created_at, due_at, status, attempt, token, worker, claimed_at, order_id,
    answer_http_status, answer_ms, content_key, sent_at, finished_at)
SELECT 'SANDBOX', ARRAY['90532' || lpad((n % 10000000)::text, 7, '0')], 'Yesterday ' || lpad(n::text, 9, '0') || ' was on its way.',
       false, n % 4, moment, moment, 'sent', 1, 1, 'worker', moment, (100000000 + n)::text, 200, 12,
       ((extract(epoch FROM moment) / 300)::bigint << 40) | n, moment, moment
FROM generate_series(1, $1::bigint) AS n, LATERAL (SELECT now() - interval '1 day' + n * interval '1 millisecond' AS moment) AS at
