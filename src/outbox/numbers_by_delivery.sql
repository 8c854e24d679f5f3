-- The numbers of a job by what became of the message there, the first of each.
--   $1 job   $2 numbers of each at most
SELECT delivery, count(*) AS count, (array_agg(number ORDER BY n))[:$2] AS numbers
FROM sms_outbox.recipients($1)
GROUP BY delivery
ORDER BY array_position(ARRAY['delivered', 'undelivered', 'pending', 'rejected'], delivery)
