-- PostgreSQL reads every CHECK of a table anew for each statement that writes to it. Those that say what workers promise about
-- their own writing, and not what a producer may say, took 48 of the 108 microseconds that an insert took the server (a plain
-- table of the same columns: 22). The tests hold workers to them in every database of theirs (tests/it/support/promises.sql).
ALTER TABLE sms_outbox.jobs
    DROP CONSTRAINT jobs_status_known,
    DROP CONSTRAINT jobs_error_class_known,
    DROP CONSTRAINT jobs_finished_exactly_when_final,
    DROP CONSTRAINT jobs_sent_at_exactly_when_sent,
    DROP CONSTRAINT jobs_leased_exactly_when_sending,
    DROP CONSTRAINT jobs_failed_has_a_class,
    DROP CONSTRAINT jobs_uncertain_has_a_doubt,
    DROP CONSTRAINT jobs_order_id_only_when_sent,
    DROP CONSTRAINT jobs_duplicate_only_when_sent,
    DROP CONSTRAINT jobs_duplicate_of_only_for_a_duplicate,
    DROP CONSTRAINT jobs_attempt_not_negative,
    DROP CONSTRAINT jobs_parked_known;
