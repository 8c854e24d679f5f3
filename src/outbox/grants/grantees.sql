-- Roles that have been granted anything on what is ours, where it is this role's to grant more. Groups first: what a group has
-- got, its members need not get as well.
WITH ours AS (
    SELECT oid, nspacl FROM pg_namespace WHERE nspname = 'sms_outbox'
), granted AS (
    SELECT acl.grantee FROM ours, aclexplode(nspacl) AS acl
    UNION
    SELECT acl.grantee FROM ours, pg_class, aclexplode(relacl) AS acl WHERE relnamespace = ours.oid
    UNION
    SELECT acl.grantee FROM ours, pg_class AS relation, pg_attribute, aclexplode(attacl) AS acl
    WHERE relnamespace = ours.oid AND attrelid = relation.oid
)
SELECT role.rolname::text
FROM pg_class AS jobs, granted JOIN pg_roles AS role ON role.oid = granted.grantee
WHERE jobs.relname = 'jobs' AND jobs.relnamespace = (SELECT oid FROM ours)
  AND pg_has_role(jobs.relowner, 'USAGE') AND role.oid <> jobs.relowner AND NOT role.rolsuper
ORDER BY role.rolcanlogin, role.rolname
