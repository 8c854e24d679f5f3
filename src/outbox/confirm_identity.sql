-- An operator says that this database is the one to send from now on.
--   $1 by   $2 what a promotion does from now on, stop or go_on (null: as before)
WITH renumbered AS (
    -- Restored into a server which has counted fewer transactions: older entries would be the latest for ever.
    UPDATE sms_outbox.change_log SET xid = pg_current_xact_id() WHERE xid > pg_snapshot_xmax(pg_current_snapshot())
)
INSERT INTO sms_outbox.database_identity AS pinned
    (system_identifier, timeline, database_oid, database_name, jobs_oid, pinned_by, promotions)
SELECT system_identifier, timeline, database_oid, database_name, jobs_oid, $1, coalesce($2, 'stop')
FROM sms_outbox.current_database_identity()
ON CONFLICT (one) DO UPDATE
SET system_identifier = excluded.system_identifier, timeline = excluded.timeline, database_oid = excluded.database_oid,
    database_name = excluded.database_name, jobs_oid = excluded.jobs_oid, pinned_by = excluded.pinned_by, pinned_at = now(),
    promotions = coalesce($2, pinned.promotions), promotion_until = NULL
