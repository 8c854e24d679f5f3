-- What has been inserted, not what has been written out: the difference of two of these is what the work between them cost.
SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint, clock_timestamp()
