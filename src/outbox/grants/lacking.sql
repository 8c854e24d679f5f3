-- What a role needs and lacks, one row for each object. By oid: asking by name fails where the schema itself may not be used.
-- What is not there is not lacking: an older schema has less.
--   $1 rights: a JSON array of objects with object, name, privileges, columns (null: all of it)   $2 role (null: this one)
WITH ours AS (
    SELECT oid, coalesce($2::text, current_user)::name AS role FROM pg_namespace WHERE nspname = 'sms_outbox'
), needed AS MATERIALIZED (
    SELECT needed.object, needed.name, needed.columns, privilege
    FROM jsonb_to_recordset($1) AS needed (object text, name text, privileges text[], columns text[])
    CROSS JOIN unnest(needed.privileges) AS privilege
), lacking AS (
    -- Each CASE keeps a privilege from being asked where there is none of its name, which is an error, in whatever order the
    -- planner has the conditions.
    SELECT 'SCHEMA sms_outbox' AS object, privilege AS lacks
    FROM ours, needed
    WHERE CASE WHEN needed.object = 'SCHEMA' THEN NOT has_schema_privilege(ours.role, ours.oid, privilege) END
    UNION ALL
    SELECT 'TABLE sms_outbox.' || name, privilege
    FROM ours, needed JOIN pg_class AS relation ON relation.relname = needed.name
    WHERE relation.relnamespace = ours.oid
      AND CASE WHEN needed.object = 'TABLE' AND columns IS NULL
               THEN NOT has_table_privilege(ours.role, relation.oid, privilege) END
    UNION ALL
    SELECT 'TABLE sms_outbox.' || name, privilege || ' (' || string_agg(attname, ', ' ORDER BY place) || ')'
    FROM ours, needed
    JOIN pg_class AS relation ON relation.relname = needed.name
    CROSS JOIN unnest(needed.columns) WITH ORDINALITY AS "column" (named, place)
    JOIN pg_attribute ON attrelid = relation.oid AND attname = named AND NOT attisdropped
    WHERE relation.relnamespace = ours.oid
      AND CASE WHEN needed.object = 'TABLE' AND columns IS NOT NULL
               THEN NOT has_column_privilege(ours.role, relation.oid, attnum, privilege) END
    GROUP BY name, privilege
    UNION ALL
    SELECT 'FUNCTION sms_outbox.' || name, privilege
    FROM ours, needed JOIN pg_proc AS function ON function.proname = needed.name
    WHERE function.pronamespace = ours.oid
      AND CASE WHEN needed.object = 'FUNCTION' THEN NOT has_function_privilege(ours.role, function.oid, privilege) END
)
SELECT object, string_agg(lacks, ', ' ORDER BY lacks) AS rights FROM lacking GROUP BY object ORDER BY object
