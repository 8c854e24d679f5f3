-- How far a step of the schedule has come in an account. A cursor from another server, whose transactions were counted further than
-- this one's, says nothing here.
--   $1 account   $2 step
SELECT xid::text AS xid, id, place, (extract(epoch FROM scheduled_to) * 1000000)::bigint AS scheduled_us, scheduled_id
FROM sms_outbox.delivery_checks
WHERE account = $1 AND step = $2
  AND xid <= pg_snapshot_xmax(pg_current_snapshot())
