-- Jobs that are to be reconciled now, the oldest task first, with the time within which the provider may have taken it: from
-- the claim of the first request that may have been accepted to the end of the last one.
--   $1 account   $2 at most
SELECT job.id, job.token, job.sender, cardinality(job.recipients) AS recipient_count, job.status = 'sent' AS is_sent, job.iys,
       task.scans, task.clean_scans,
       (extract(epoch FROM time.since) * 1000000)::bigint AS since_us,
       (extract(epoch FROM time.until) * 1000000)::bigint AS until_us,
       (extract(epoch FROM now() - time.until) * 1000)::bigint AS settled_for_ms
FROM sms_outbox.reconciliation_tasks AS task
JOIN sms_outbox.jobs AS job ON job.id = task.job_id
CROSS JOIN LATERAL (
    SELECT coalesce(
               job.ambiguous_since,
               -- A duplicate that was never indeterminate itself: its original was taken before, within the guard window.
               job.claimed_at - CASE WHEN job.duplicate THEN interval '10 minutes' ELSE interval '0' END,
               job.created_at) AS since,
           CASE WHEN job.status = 'sent' AND job.answer_ms IS NOT NULL THEN job.sent_at
                ELSE coalesce(
                    (SELECT max(log.recorded_at) FROM sms_outbox.attempt_log AS log
                     WHERE log.job_id = job.id AND log.progress = 'maybe_sent'),
                    task.begun_at) END AS until
) AS time
WHERE task.account = $1 AND task.next_at IS NOT NULL AND task.next_at <= now()
  AND task.token = job.token
  AND (job.status = 'uncertain' OR (job.status = 'sent' AND job.order_id IS NULL))
ORDER BY task.next_at
LIMIT $2
