-- Claims read on from where they were instead of stepping over all that a transaction elsewhere keeps from being removed. Jobs
-- that are due at one moment, as when one statement writes a campaign, are told apart by their id.
CREATE INDEX jobs_single_due_from ON sms_outbox.jobs (account, priority, due_at, id)
    WHERE status = 'queued' AND NOT bulk AND parked IS NULL;
DROP INDEX sms_outbox.jobs_single_due;
ALTER INDEX sms_outbox.jobs_single_due_from RENAME TO jobs_single_due;
