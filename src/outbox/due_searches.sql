-- Jobs whose order is to be looked for now, the oldest first, with the time within which the provider may have taken it: from
-- the claim of the first request that may have been accepted to the moment when the last one was given up.
--   $1 account   $2 at most
SELECT job.id, job.token, job.sender, job.recipients[:] AS recipients, job.iys, search.scans, search.clean_scans,
       (extract(epoch FROM time.since) * 1000000)::bigint AS since_us,
       (extract(epoch FROM time.until) * 1000000)::bigint AS until_us,
       (extract(epoch FROM now() - time.until) * 1000)::bigint AS settled_for_ms
FROM sms_outbox.searches AS search
JOIN sms_outbox.jobs AS job ON job.id = search.job_id
CROSS JOIN LATERAL (
    SELECT coalesce(
               job.ambiguous_since,
               -- A duplicate without a doubt of its own: what the provider had taken was taken before, within its guard window.
               job.claimed_at - CASE WHEN job.duplicate THEN interval '10 minutes' ELSE interval '0' END,
               job.created_at) AS since,
           CASE WHEN job.status = 'sent' AND job.answer_ms IS NOT NULL THEN job.sent_at
                ELSE coalesce(
                    (SELECT max(log.recorded_at) FROM sms_outbox.attempt_log AS log
                     WHERE log.job_id = job.id AND log.progress = 'maybe_sent'),
                    search.begun_at) END AS until
) AS time
WHERE search.account = $1 AND search.next_at IS NOT NULL AND search.next_at <= now()
  AND search.token = job.token
  AND (job.status = 'uncertain' OR (job.status = 'sent' AND job.order_id IS NULL))
ORDER BY search.next_at
LIMIT $2
