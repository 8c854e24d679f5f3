-- An operator says which provider the queue is for.
--   $1 by   $2 scheme, host and port
INSERT INTO sms_outbox.database_identity AS pinned (jobs_oid, pinned_by, provider_url)
SELECT jobs_oid, $1, $2 FROM sms_outbox.current_database_identity()
ON CONFLICT (one) DO UPDATE SET provider_url = excluded.provider_url
