-- Which database the queue was written in. A restored backup, a promoted standby and a copy hold jobs that were sent
-- elsewhere meanwhile, and look exactly like the original; what tells them apart lies outside the tables.

CREATE FUNCTION sms_outbox.present_installation(
    OUT system_identifier text, OUT timeline integer, OUT database_oid bigint, OUT database_name text,
    OUT jobs_oid bigint)
LANGUAGE plpgsql AS $$
BEGIN
    SELECT database.oid::bigint, database.datname INTO database_oid, database_name
    FROM pg_catalog.pg_database AS database
    WHERE database.datname = pg_catalog.current_database();
    SELECT relation.oid::bigint INTO jobs_oid
    FROM pg_catalog.pg_class AS relation JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relation.relnamespace
    WHERE namespace.nspname = 'sms_outbox' AND relation.relname = 'jobs';
    -- Each by itself, and whatever the reason: where a managed service refuses one, the others still tell something.
    BEGIN
        SELECT control.system_identifier::text INTO system_identifier FROM pg_catalog.pg_control_system() AS control;
    EXCEPTION WHEN OTHERS THEN
        system_identifier := NULL;
    END;
    BEGIN
        -- The name of the file that is being written begins with the timeline, in hexadecimal digits. It is right as soon as a
        -- standby has been promoted; pg_control_checkpoint() is so only after the next checkpoint.
        IF NOT pg_catalog.pg_is_in_recovery() THEN
            timeline := ('x' || left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8))::bit(32)::integer;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        timeline := NULL;
    END;
END
$$;
COMMENT ON FUNCTION sms_outbox.present_installation() IS
    'What tells this database from its own copies and restored backups. Null: the server does not say.';

CREATE TABLE sms_outbox.installation (
    one               boolean     NOT NULL DEFAULT true,
    system_identifier text,
    timeline          integer,
    database_oid      bigint,
    database_name     text,
    jobs_oid          bigint      NOT NULL,
    promotions        text        NOT NULL DEFAULT 'stop',
    noted_at          timestamptz NOT NULL DEFAULT now(),
    noted_by          text        NOT NULL,
    CONSTRAINT installation_pkey PRIMARY KEY (one),
    CONSTRAINT installation_is_one_row CHECK (one),
    CONSTRAINT installation_promotions_known CHECK (promotions IN ('stop', 'go_on'))
);
COMMENT ON TABLE sms_outbox.installation IS
    'The one database from which messages are sent. While sms_outbox.present_installation() differs, workers claim nothing: '
    'see sms-outbox resume --after-restore.';
COMMENT ON COLUMN sms_outbox.installation.one IS 'Always true: there is one row.';
COMMENT ON COLUMN sms_outbox.installation.system_identifier IS
    'The server''s data directory, from its initdb on (pg_control_system). Another after a dump was restored elsewhere. Null: the '
    'server did not say. Written by migrate, by the first worker, and by resume --after-restore.';
COMMENT ON COLUMN sms_outbox.installation.timeline IS
    'How often the server''s history has branched, from 1: another after a promotion or a point-in-time recovery. Null: the '
    'server did not say. Written as system_identifier.';
COMMENT ON COLUMN sms_outbox.installation.database_oid IS
    'The database in the server (pg_database.oid): another after a copy (CREATE DATABASE … TEMPLATE) or a dump that was restored '
    'into a new database; the same after a renaming. Null: no worker has been here yet, and a template for new databases may '
    'be copied. Written by the first worker, and by resume --after-restore.';
COMMENT ON COLUMN sms_outbox.installation.database_name IS
    'What the database was called then; only for people. Written as database_oid.';
COMMENT ON COLUMN sms_outbox.installation.jobs_oid IS
    'The table sms_outbox.jobs in the database (pg_class.oid): another after a dump was restored over it (pg_restore --clean). '
    'Written as system_identifier.';
COMMENT ON COLUMN sms_outbox.installation.promotions IS
    'Whether another timeline alone makes workers stop (stop) or not (go_on: replication is synchronous, so that a promoted '
    'standby has forgotten nothing). Written by resume --after-restore --promotions.';
COMMENT ON COLUMN sms_outbox.installation.noted_at IS 'When this row was written.';
COMMENT ON COLUMN sms_outbox.installation.noted_by IS 'migrate, a worker, or an operator.';

INSERT INTO sms_outbox.installation (system_identifier, timeline, jobs_oid, noted_by)
SELECT system_identifier, timeline, jobs_oid, 'migrate' FROM sms_outbox.present_installation();

-- Whoever may write pauses is a worker or an operator, and needs this table as well: an upgrade must not wait for a GRANT.
DO $$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT DISTINCT CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END
        FROM pg_catalog.pg_class AS relation, aclexplode(relation.relacl) AS acl
        WHERE relation.oid = 'sms_outbox.pauses'::regclass AND acl.privilege_type = 'UPDATE' AND acl.grantee <> relation.relowner
    LOOP
        EXECUTE 'GRANT SELECT, INSERT, UPDATE ON sms_outbox.installation TO ' || grantee;
    END LOOP;
END
$$;
