-- What some jobs are right now.
SELECT id, status FROM sms_outbox.jobs WHERE id = ANY ($1)
