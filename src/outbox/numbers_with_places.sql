-- The numbers of these jobs, as their producers wrote them, and those that were left out. The caller bounds how many they are.
--   $1 ids
SELECT id, recipients[:] AS recipients, rejected_recipients FROM sms_outbox.jobs WHERE id = ANY ($1)
