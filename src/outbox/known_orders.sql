-- Which of these orders are known, and whose are they? Whoever names an order, it stands on a job or in the history: an
-- answer, a late one, a second acceptance, reconciliation, an operator.
--   $1 order ids
SELECT order_id, id AS job_id FROM sms_outbox.jobs WHERE order_id IS NOT NULL AND order_id = ANY ($1)
UNION
SELECT order_id, job_id FROM sms_outbox.attempt_log WHERE order_id IS NOT NULL AND order_id = ANY ($1)
