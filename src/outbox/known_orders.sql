-- Which of these orders belong to jobs of ours already? There is no index on order ids: every accepted job would pay for it.
-- An order is recorded after it was taken, so the jobs since then (content_key begins with the time) are all that can have it.
--   $1 order ids   $2 when the first of them can have been taken, microseconds since 1970
SELECT order_id FROM sms_outbox.jobs
WHERE content_key >= (($2 / 300000000) - 2) << 40 AND order_id = ANY ($1)
UNION
SELECT order_id FROM sms_outbox.attempt_log WHERE order_id IS NOT NULL AND order_id = ANY ($1)
