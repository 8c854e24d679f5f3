-- Looking in the provider's reports for orders whose answer was lost. One row per job that is sought, apart from the jobs, so
-- that the search costs nothing where nothing was lost.

CREATE TABLE sms_outbox.searches (
    -- No foreign key: every update of every job would be looked at for it.
    job_id      uuid        NOT NULL PRIMARY KEY,
    token       integer     NOT NULL,
    account     text        NOT NULL,
    begun_at    timestamptz NOT NULL DEFAULT now(),
    next_at     timestamptz DEFAULT now(),
    scans       integer     NOT NULL DEFAULT 0,
    clean_scans integer     NOT NULL DEFAULT 0,
    outcome     text,
    candidates  jsonb       NOT NULL DEFAULT '[]',
    note        text,
    CONSTRAINT searches_outcome_known CHECK (outcome IN ('found', 'none', 'several')),
    CONSTRAINT searches_over_exactly_with_an_outcome CHECK ((next_at IS NULL) = (outcome IS NOT NULL))
);
CREATE INDEX searches_due ON sms_outbox.searches (account, next_at) WHERE next_at IS NOT NULL;
COMMENT ON TABLE sms_outbox.searches IS
    'The search for a job''s order in the provider''s reports: for jobs that are uncertain, or sent without an order id. '
    'Written by the one worker that reconciles the account.';
COMMENT ON COLUMN sms_outbox.searches.job_id IS 'The job.';
COMMENT ON COLUMN sms_outbox.searches.token IS 'jobs.token when the search began: a job that was sent again is sought again.';
COMMENT ON COLUMN sms_outbox.searches.account IS 'The job''s account.';
COMMENT ON COLUMN sms_outbox.searches.begun_at IS 'When it began.';
COMMENT ON COLUMN sms_outbox.searches.next_at IS 'When the reports are read next; null when it is over.';
COMMENT ON COLUMN sms_outbox.searches.scans IS 'How often all reports of the time in question were read.';
COMMENT ON COLUMN sms_outbox.searches.clean_scans IS 'How many of them, in a row, were read to their end and held nothing that fits.';
COMMENT ON COLUMN sms_outbox.searches.outcome IS
    'found (exactly one order fits; its id is on the job), none (nothing after the settling time and two clean scans), several '
    '(a person has to tell which); null while it goes on.';
COMMENT ON COLUMN sms_outbox.searches.candidates IS
    'The orders that fit, as a JSON array of objects: order_id, submitted_at, total, status.';
COMMENT ON COLUMN sms_outbox.searches.note IS 'A sentence for the operator about the last scan.';

CREATE TABLE sms_outbox.duties (
    duty   text        NOT NULL PRIMARY KEY,
    worker text        NOT NULL,
    until  timestamptz NOT NULL
);
COMMENT ON TABLE sms_outbox.duties IS 'What only one worker of the fleet does at a time.';
COMMENT ON COLUMN sms_outbox.duties.duty IS 'What: reconciliation/ and the account.';
COMMENT ON COLUMN sms_outbox.duties.worker IS 'Who.';
COMMENT ON COLUMN sms_outbox.duties.until IS 'Until when it is theirs, unless they renew it.';

-- Orders that were accepted beside the one on the job: few, and reconciliation must not take them for another job's.
CREATE INDEX attempt_log_order ON sms_outbox.attempt_log (order_id) WHERE order_id IS NOT NULL;

-- As before, and the searches go with their jobs.
CREATE OR REPLACE FUNCTION sms_outbox.prune(finished_before timestamptz, at_most integer DEFAULT 10000) RETURNS bigint
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    WITH old AS (
        SELECT id FROM sms_outbox.jobs
        WHERE jobs.finished_at < prune.finished_before
        LIMIT prune.at_most
        FOR UPDATE SKIP LOCKED
    ), forgotten AS (
        DELETE FROM sms_outbox.attempt_log WHERE job_id IN (SELECT id FROM old)
    ), unsought AS (
        DELETE FROM sms_outbox.searches WHERE job_id IN (SELECT id FROM old)
    ), pruned AS (
        DELETE FROM sms_outbox.jobs WHERE id = ANY (ARRAY(SELECT id FROM old)) RETURNING 1
    )
    SELECT count(*) FROM pruned;
END;

COMMENT ON COLUMN sms_outbox.attempt_log.started_at IS
    'When the job was claimed for it; for what reconciliation found, when it was found.';
