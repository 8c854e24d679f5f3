-- How many deliveries have come to an end.
SELECT count(*) FROM sms_outbox.deliveries WHERE finished_at IS NOT NULL
