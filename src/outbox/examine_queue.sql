-- What is stuck. One walk over the table: this is asked by a person now and then.
WITH failed AS (
    SELECT error_class, count(*) AS jobs
    FROM sms_outbox.jobs
    WHERE status = 'failed' AND finished_at > now() - interval '1 hour'
    GROUP BY error_class
)
SELECT count(*) FILTER (WHERE status = 'sending' AND lease_until < now() - interval '30 seconds') AS abandoned,
       count(*) FILTER (WHERE status = 'uncertain') AS uncertain,
       (SELECT coalesce(sum(jobs), 0)::bigint FROM failed) AS failed_last_hour,
       (SELECT string_agg(error_class || ' ' || jobs, ', ' ORDER BY jobs DESC) FROM failed) AS failed_why,
       (extract(epoch FROM now() - max(claimed_at)) * 1000)::bigint AS last_claim_ms
FROM sms_outbox.jobs
