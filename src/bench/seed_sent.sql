-- $1 jobs that were sent a moment ago, of which nothing is known yet. The hash of their texts is that of ContentKey.
INSERT INTO sms_outbox.jobs (
    sender, recipients, body, iys, status, attempt, token, worker, claimed_at, order_id, answer_http_status, answer_ms, content_key,
    sent_at, finished_at)
SELECT 'SANDBOX', ARRAY[message.number], message.text, false, 'sent', 1, 1, 'worker', now(), (100000000 + n)::text, 200, 12,
       ((extract(epoch FROM now()) / 300)::bigint << 40)
       | ('x' || substr(encode(sha256(
           'default'::bytea || '\x00'::bytea || convert_to(message.number, 'UTF8') || '\x0000'::bytea || convert_to(message.text, 'UTF8')),
           'hex'), 1, 10))::bit(40)::bigint,
       now(), now()
FROM generate_series(0, $1::bigint - 1) AS n, LATERAL (
    SELECT '90532' || lpad((n % 10000000)::text, 7, '0') AS number, 'Order ' || lpad(n::text, 9, '0') || ' is on its way.' AS text
) AS message
