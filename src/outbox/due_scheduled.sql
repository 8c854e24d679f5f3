-- What a step of the schedule comes to among orders that the provider holds until their time: there is no news before it.
--   $1 account   the cursor: $2 provider_send_at, microseconds since 1970   $3 job   $4 age of the step in ms   $5 at most
--   $6 age in ms from which a job is left to the next step
WITH passed AS MATERIALIZED (
    SELECT job.id, job.order_id, job.priority, cardinality(job.recipients) AS recipients, job.sent_at, job.provider_send_at
    FROM sms_outbox.jobs AS job
    WHERE job.account = $1 AND job.provider_send_at IS NOT NULL AND job.status = 'sent'
      AND (job.provider_send_at, job.id) > (to_timestamp($2 / 1000000.0), $3::uuid)
      AND job.provider_send_at <= now() - $4::bigint * interval '1 millisecond'
    ORDER BY job.provider_send_at, job.id
    LIMIT $5
), last AS (
    SELECT provider_send_at, id FROM passed ORDER BY provider_send_at DESC, id DESC LIMIT 1
)
SELECT (extract(epoch FROM last.provider_send_at) * 1000000)::bigint AS scheduled_us, last.id AS scheduled_id,
       (SELECT count(*) FROM passed) = $5 AS has_more,
       due.id AS job_id, due.order_id, due.priority, due.recipients, due.age_ms,
       (extract(epoch FROM due.sent_at) * 1000000)::bigint AS sent_us
FROM last
LEFT JOIN (
    SELECT passed.*, (extract(epoch FROM now() - passed.provider_send_at) * 1000)::bigint AS age_ms
    FROM passed
    LEFT JOIN LATERAL (
        SELECT status FROM sms_outbox.deliveries WHERE job_id = passed.id LIMIT 1) AS known ON true
    WHERE passed.order_id IS NOT NULL AND passed.provider_send_at > passed.sent_at
      AND (known.status IS NULL OR known.status IN ('pending', 'unknown'))
      AND passed.provider_send_at > now() - $6::bigint * interval '1 millisecond'
) AS due ON true
