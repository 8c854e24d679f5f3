-- Events that a receiver could not match by itself, the longest due first.
--   $1 account   $2 at most
SELECT id, order_id, numbers, words, contents,
       (extract(epoch FROM now() - received_at) * 1000)::bigint AS age_ms
FROM sms_outbox.delivery_inbox
WHERE account = $1 AND next_at <= now()
ORDER BY next_at, id
LIMIT $2
