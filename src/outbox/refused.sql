-- Jobs whose row the database refuses to change, the latest first.
--   $1 at most
SELECT refused.job_id, refused.sqlstate, refused.rule, refused.refusals
FROM sms_outbox.refused_jobs AS refused JOIN sms_outbox.jobs AS job ON job.id = refused.job_id
WHERE job.status IN ('queued', 'sending') AND refused.retry_at > now() - interval '1 minute'
ORDER BY refused.since DESC
LIMIT $1
