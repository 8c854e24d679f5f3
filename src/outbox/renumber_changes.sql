-- In a database that was restored into a server which has counted fewer transactions: its older entries would be the latest for ever.
UPDATE sms_outbox.change_log SET xid = pg_current_xact_id() WHERE xid > pg_snapshot_xmax(pg_current_snapshot())
