-- Which parts of maintenance have anything to do? One statement instead of six, for a worker that is idle all night. Each part
-- asks for at least what the statement that follows it would find.
--   $1 age in ms from which an indeterminate job is no longer guarded
SELECT EXISTS (SELECT FROM sms_outbox.jobs
               WHERE status = 'queued' AND expires_at IS NOT NULL AND expires_at <= now()) AS expiry,
       EXISTS (SELECT FROM sms_outbox.jobs
               WHERE status = 'queued' AND ambiguous_since IS NOT NULL
                 AND ambiguous_since <= now() - $1 * interval '1 millisecond') AS stale,
       EXISTS (SELECT FROM sms_outbox.jobs
               WHERE status = 'sent' AND order_id IS NULL AND sent_at > now() - interval '3 minutes') AS orphans,
       EXISTS (SELECT FROM sms_outbox.pauses WHERE ended_at IS NULL) AS pauses,
       EXISTS (SELECT FROM sms_outbox.jobs WHERE status = 'queued' AND held IS NOT NULL) AS held
