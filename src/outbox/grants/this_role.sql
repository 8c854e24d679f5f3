-- Who this is, as SQL and a shell write it, and of which tables of ours row level security shows it only a part.
SELECT quote_ident(current_user) AS role, ARRAY(
    SELECT relname::text FROM pg_class
    WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'sms_outbox') AND relkind = 'r'
      AND row_security_active(oid)
    ORDER BY relname
) AS hidden
