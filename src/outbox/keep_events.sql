-- Keeps what webhooks said of orders that a receiver cannot match by itself, a row for each order.
--   $1 account   $2 an array of objects: order_id, numbers, words, contents
WITH durable AS MATERIALIZED (
    SELECT CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END
)
INSERT INTO sms_outbox.delivery_inbox (account, order_id, numbers, words, contents)
SELECT $1, event.order_id, event.numbers, event.words, event.contents
FROM durable, jsonb_to_recordset($2) AS event (order_id text, numbers text[], words text, contents bigint[])
