-- How the search for a job's order stands.
--   $1 job
SELECT search.outcome, search.scans, search.clean_scans, search.candidates, search.note,
       (extract(epoch FROM search.next_at - now()) * 1000)::bigint AS next_in_ms
FROM sms_outbox.searches AS search
JOIN sms_outbox.jobs AS job ON job.id = search.job_id AND job.token = search.token
WHERE search.job_id = $1
