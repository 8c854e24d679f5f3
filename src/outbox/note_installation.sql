-- Notes this database as the one to send from, as far as nothing has been noted; what has stays.
--   $1 by
INSERT INTO sms_outbox.installation AS noted (system_identifier, timeline, database_oid, database_name, jobs_oid, noted_by)
SELECT system_identifier, timeline, database_oid, database_name, jobs_oid, $1
FROM sms_outbox.present_installation()
ON CONFLICT (one) DO UPDATE
SET system_identifier = coalesce(noted.system_identifier, excluded.system_identifier),
    timeline = coalesce(noted.timeline, excluded.timeline),
    database_oid = coalesce(noted.database_oid, excluded.database_oid),
    database_name = coalesce(noted.database_name, excluded.database_name)
