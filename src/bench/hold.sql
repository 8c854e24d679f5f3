-- A report, a dump, a forgotten session: its snapshot keeps everything that was alive when it was taken.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SET LOCAL idle_in_transaction_session_timeout = 0;
SELECT count(*) FROM pg_catalog.pg_class;
