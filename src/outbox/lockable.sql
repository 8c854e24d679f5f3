-- Which of these jobs nobody else holds at the moment.
--   $1 ids
SELECT id FROM sms_outbox.jobs WHERE id = ANY ($1) FOR NO KEY UPDATE SKIP LOCKED
