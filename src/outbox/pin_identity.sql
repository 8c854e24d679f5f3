-- Pins this database as the one to send from. What is pinned already is not changed.
--   $1 by
INSERT INTO sms_outbox.database_identity AS pinned (system_identifier, timeline, database_oid, database_name, jobs_oid, pinned_by)
SELECT system_identifier, timeline, database_oid, database_name, jobs_oid, $1
FROM sms_outbox.current_database_identity()
ON CONFLICT (one) DO UPDATE
SET system_identifier = coalesce(pinned.system_identifier, excluded.system_identifier),
    timeline = coalesce(pinned.timeline, excluded.timeline),
    database_oid = coalesce(pinned.database_oid, excluded.database_oid),
    database_name = coalesce(pinned.database_name, excluded.database_name)
