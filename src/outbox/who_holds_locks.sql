-- Whose locks a migration may wait for: the oldest transaction of another session that holds one on our tables, or on all
-- migrations. Needs no schema.
SELECT format('process %s (%s%s)', holder.pid, coalesce(nullif(holder.application_name, ''), holder.usename, 'unknown'),
              coalesce(', for ' || date_trunc('second', now() - holder.xact_start), ''))
FROM pg_locks AS held
JOIN pg_stat_activity AS holder ON holder.pid = held.pid
LEFT JOIN pg_class AS relation ON relation.oid = held.relation
WHERE held.granted AND held.pid <> pg_backend_pid()
  AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (held.locktype = 'advisory' AND holder.application_name LIKE 'sms-outbox%'
       OR relation.relnamespace = to_regnamespace('sms_outbox'))
ORDER BY holder.xact_start NULLS LAST
LIMIT 1
