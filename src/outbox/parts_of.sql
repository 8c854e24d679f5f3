-- The parts of a list that was refused because of numbers in it, in the order in which they were cut; not those that were cut
-- themselves.
--   $1 the whole list   $2 at most
SELECT id, status, cardinality(recipients) AS recipient_count, order_id, error_class, error_code
FROM sms_outbox.jobs
WHERE part_of = $1 AND part_of IS NOT NULL AND status <> 'split'
ORDER BY created_at, id
LIMIT $2
