-- A doubt has to be settled while the provider's guard stands, whatever waits: behind a backlog of eight minutes it would never
-- get its turn in time. Claims look for doubts that are due before everything but priority 0.
CREATE INDEX jobs_doubt_due ON sms_outbox.jobs (account, due_at)
    WHERE status = 'queued' AND ambiguous_since IS NOT NULL AND NOT bulk AND parked IS NULL;
