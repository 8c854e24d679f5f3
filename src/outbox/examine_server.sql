-- How the server is set up, as far as an ordinary role may know. Needs no schema.
WITH own AS (
    SELECT role.oid AS role, role.rolconnlimit, database.oid AS database, database.datconnlimit
    FROM pg_roles AS role, pg_database AS database
    WHERE role.rolname = current_user AND database.datname = current_database()
), free AS (
    -- Each limit by itself: the least one is the one that will be met.
    SELECT * FROM (
        SELECT current_setting('max_connections')::bigint
                   - current_setting('superuser_reserved_connections')::bigint
                   - coalesce(current_setting('reserved_connections', true)::bigint, 0) AS allowed,
               (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used
        UNION ALL
        SELECT own.rolconnlimit, (SELECT count(*) FROM pg_stat_activity WHERE usesysid = own.role)
        FROM own WHERE own.rolconnlimit >= 0
        UNION ALL
        SELECT own.datconnlimit, (SELECT count(*) FROM pg_stat_activity WHERE datid = own.database)
        FROM own WHERE own.datconnlimit >= 0
    ) AS bounds
    ORDER BY allowed - used
    LIMIT 1
)
SELECT current_setting('server_version') AS version,
       current_setting('server_version_num')::integer AS version_num,
       current_database()::text AS database,
       (SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database())::text AS encoding,
       quote_ident(current_user) AS role,
       pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on' AS read_only,
       current_setting('fsync') = 'on' AS fsync,
       current_setting('full_page_writes') = 'on' AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit,
       -- What a session of this role begins with, so that what this one has set for itself does not count.
       ARRAY(SELECT name || ' = ' || reset_val FROM pg_settings
             WHERE name = 'log_statement' AND reset_val IN ('mod', 'all')
                OR name IN ('log_min_duration_statement', 'log_min_duration_sample', 'auto_explain.log_min_duration')
                   AND reset_val <> '-1'
                OR name = 'pgaudit.log' AND reset_val NOT IN ('', 'none')
             ORDER BY name) AS logs_statements,
       (SELECT reset_val FROM pg_settings WHERE name = 'log_parameter_max_length') <> '0' AS logs_parameters,
       (SELECT reset_val FROM pg_settings WHERE name = 'log_parameter_max_length_on_error') <> '0' AS logs_parameters_on_error,
       (SELECT ssl.version FROM pg_stat_ssl AS ssl WHERE ssl.pid = pg_backend_pid() AND ssl.ssl) AS tls,
       coalesce(inet_server_addr() <<= '127.0.0.0/8' OR inet_server_addr() = '::1', true) AS is_local,
       free.allowed AS connections_allowed,
       free.used AS connections_used,
       -- Workers put their name behind the program's; everyone else is just the program.
       (SELECT count(DISTINCT application_name) FROM pg_stat_activity
        WHERE datname = current_database() AND starts_with(application_name, 'sms-outbox ')) AS workers
FROM free
