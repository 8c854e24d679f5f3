-- A message that brings its worker down must not take the fleet with it, one restart after the other.

ALTER TABLE sms_outbox.jobs
    DROP CONSTRAINT jobs_parked_known,
    ADD CONSTRAINT jobs_parked_known CHECK (parked IN ('sender', 'iys', 'alone'));
COMMENT ON COLUMN sms_outbox.jobs.parked IS
    'Out of the ordinary claims'' way: because of a pause of this scope (sender or iys; a claim would have to step over every '
    'message of a paused sender, each time), or because workers went down with it in their hands and the next one is to send '
    'it alone. Null otherwise. Written by workers.';

CREATE TABLE sms_outbox.lost_workers (
    worker     text        NOT NULL PRIMARY KEY,
    noticed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE sms_outbox.lost_workers IS
    'Workers that left claims behind during the last day: they were killed, went down, or lost the database for longer than '
    'a lease. A job that was in the hands of nearly all of them is suspected to be the cause.';
COMMENT ON COLUMN sms_outbox.lost_workers.worker IS 'Its name, as in jobs.worker. A worker that starts anew has a new name.';
COMMENT ON COLUMN sms_outbox.lost_workers.noticed_at IS 'When the first of its claims was found abandoned.';
