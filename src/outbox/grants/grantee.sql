-- Whether a role can be granted anything, and by us.
--   $1 role
SELECT role.rolname IS NOT NULL AS is_there, coalesce(role.rolcanlogin, false) AS can_log_in,
       pg_get_userbyid(relation.relowner)::text AS owner, pg_has_role(relation.relowner, 'USAGE') AS is_ours
FROM pg_class AS relation LEFT JOIN pg_roles AS role ON role.rolname = $1
WHERE relation.relname = 'jobs' AND relation.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'sms_outbox')
