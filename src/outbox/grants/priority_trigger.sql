-- Holds producers to their limits, from the first limit on. The WHEN comes before the function: the least urgent jobs, which
-- are the most, cost next to nothing. Making it waits for every transaction that has inserted a job, and every insert waits
-- behind it; so it gives up at once, and whoever runs it tries again.
DO $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_trigger
        WHERE tgrelid = 'sms_outbox.jobs'::regclass AND tgname = 'jobs_priority_is_allowed_to_the_producer')
    THEN
        SET LOCAL lock_timeout = '100ms';
        CREATE TRIGGER jobs_priority_is_allowed_to_the_producer BEFORE INSERT ON sms_outbox.jobs
            FOR EACH ROW WHEN (new.priority < 3) EXECUTE FUNCTION sms_outbox.hold_to_priority_limit();
    END IF;
END
$$;
