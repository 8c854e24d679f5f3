-- What a worker needs and this role lacks. By oid: asking by name fails where the schema itself may not be used.
WITH wanted (name, privilege) AS (
    VALUES ('jobs', 'SELECT'), ('jobs', 'INSERT'), ('jobs', 'UPDATE'),
           ('attempt_log', 'SELECT'), ('attempt_log', 'INSERT'), ('attempts', 'SELECT'), ('queue_stats', 'SELECT'),
           ('pauses', 'SELECT'), ('pauses', 'INSERT'), ('pauses', 'UPDATE'),
           ('rate_limits', 'SELECT'), ('rate_limits', 'INSERT'), ('rate_limits', 'UPDATE'),
           ('database_identity', 'SELECT'), ('database_identity', 'INSERT'), ('database_identity', 'UPDATE'),
           ('reconciliation_tasks', 'SELECT'), ('reconciliation_tasks', 'INSERT'), ('reconciliation_tasks', 'UPDATE'),
           ('reconciliation_tasks', 'DELETE'),
           ('maintenance_leases', 'SELECT'), ('maintenance_leases', 'INSERT'), ('maintenance_leases', 'UPDATE'),
           ('_migrations', 'SELECT')
), ours AS (
    SELECT oid FROM pg_namespace WHERE nspname = 'sms_outbox'
)
SELECT 'USAGE' AS privilege, 'SCHEMA sms_outbox' AS object
FROM ours WHERE NOT has_schema_privilege(oid, 'USAGE')
UNION ALL
SELECT string_agg(wanted.privilege, ', ' ORDER BY wanted.privilege), 'TABLE sms_outbox.' || wanted.name
FROM wanted JOIN pg_class AS relation ON relation.relname = wanted.name AND relation.relnamespace IN (SELECT oid FROM ours)
WHERE NOT has_table_privilege(relation.oid, wanted.privilege)
GROUP BY wanted.name
UNION ALL
SELECT 'EXECUTE', 'FUNCTION ' || oid::regprocedure
FROM pg_proc
WHERE pronamespace IN (SELECT oid FROM ours) AND prorettype <> 'trigger'::regtype
  AND NOT has_function_privilege(oid, 'EXECUTE')
