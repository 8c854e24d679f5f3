-- Takes the lease of a maintenance task that nobody holds, or keeps it; no row: it is another worker's.
--   $1 task   $2 worker   $3 for how many ms
INSERT INTO sms_outbox.maintenance_leases AS held (task, worker, until) VALUES ($1, $2, now() + $3 * interval '1 millisecond')
ON CONFLICT (task) DO UPDATE SET worker = excluded.worker, until = excluded.until
WHERE held.worker = excluded.worker OR held.until < now()
RETURNING true
