-- Takes a duty that nobody holds, or keeps one; no row: it is another worker's.
--   $1 duty   $2 worker   $3 for how many ms
INSERT INTO sms_outbox.duties AS held (duty, worker, until) VALUES ($1, $2, now() + $3 * interval '1 millisecond')
ON CONFLICT (duty) DO UPDATE SET worker = excluded.worker, until = excluded.until
WHERE held.worker = excluded.worker OR held.until < now()
RETURNING true
