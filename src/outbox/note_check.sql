-- How far a step of the schedule has come in an account. Only ever further, unless the one that stands there is from another server.
--   $1 account   $2 step   $3 xid   $4 id   $5 place   $6 provider_send_at, microseconds since 1970   $7 id of that job
INSERT INTO sms_outbox.delivery_checks AS known (account, step, xid, id, place, scheduled_to, scheduled_id)
VALUES ($1, $2, $3::text::xid8, $4, $5, to_timestamp($6 / 1000000.0), $7)
ON CONFLICT (account, step) DO UPDATE
SET xid = excluded.xid, id = excluded.id, place = excluded.place, scheduled_to = excluded.scheduled_to,
    scheduled_id = excluded.scheduled_id
WHERE known.xid > pg_snapshot_xmax(pg_current_snapshot())
   OR (known.xid, known.id, known.place) <= (excluded.xid, excluded.id, excluded.place)
      AND (known.scheduled_to, known.scheduled_id) <= (excluded.scheduled_to, excluded.scheduled_id)
