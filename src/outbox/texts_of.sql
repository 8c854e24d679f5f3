-- The texts of these jobs. The caller bounds how many they are.
--   $1 ids
SELECT id, body FROM sms_outbox.jobs WHERE id = ANY ($1)
