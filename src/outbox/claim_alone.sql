-- Takes one message that workers went down with, for a worker that holds nothing else. Pauses, slots and the one bulk order at
-- a time hold for it like for any other.
--   $1 account   $2 lease in ms   $3 worker   $4 recipients per second (0: no limit)   $5 window   $6 horizon
WITH held AS MATERIALIZED (
    SELECT coalesce(bool_or(scope = 'account'), false) AS account,
           coalesce(bool_or(scope = 'iys'), false) AS iys,
           coalesce(array_agg(sender) FILTER (WHERE scope = 'sender'), '{}') AS senders,
           -- A claim that a crash could take back would be a request without its marker.
           CASE WHEN current_setting('synchronous_commit') = 'off'
                THEN set_config('synchronous_commit', 'on', true) END AS durable
    FROM sms_outbox.pauses
    WHERE account = $1 AND ended_at IS NULL AND (until IS NULL OR until > now())
), due AS MATERIALIZED (
    SELECT job.id, job.bulk, cardinality(job.recipients) AS weight, job.priority = 0 AS urgent
    FROM sms_outbox.jobs AS job, held
    WHERE job.account = $1 AND job.parked = 'alone' AND job.parked IS NOT NULL AND job.status = 'queued'
      AND job.due_at <= now() AND (job.expires_at IS NULL OR job.expires_at > now())
      AND NOT held.account AND NOT (job.iys AND held.iys) AND NOT job.sender = ANY (held.senders)
      AND NOT (job.bulk AND EXISTS (SELECT FROM sms_outbox.jobs WHERE account = $1 AND status = 'sending' AND bulk))
    ORDER BY job.priority, job.due_at
    LIMIT 1
    FOR NO KEY UPDATE OF job SKIP LOCKED
), granted AS MATERIALIZED (
    SELECT id, 0 AS wait_us FROM due WHERE $4 <= 0 OR bulk
    UNION ALL
    SELECT due.id, slot.wait_us
    FROM due, sms_outbox.reserve_slots($1, $4, $5, $6, ARRAY[due.weight], ARRAY[due.urgent]) AS slot
    WHERE $4 > 0 AND NOT due.bulk
), claimed AS (
    UPDATE sms_outbox.jobs AS job
    SET status = 'sending', attempt = job.attempt + 1, token = job.token + 1,
        worker = $3, claimed_at = now(), lease_until = now() + $2 * interval '1 millisecond'
    WHERE job.id = ANY (ARRAY(SELECT id FROM granted))
    RETURNING job.*
)
SELECT id, token, sender,
       -- Counted from 1, whatever bounds the producer's array has: drivers refuse to read others.
       recipients[:] AS recipients, body, iys, iys_list, attempt, max_attempts, traceparent, bulk, priority, due_at,
       extract(epoch FROM provider_send_at)::bigint AS provider_send_at_s,
       (extract(epoch FROM now() - ambiguous_since) * 1000)::bigint AS doubt_age_ms,
       (extract(epoch FROM expires_at - now()) * 1000)::bigint AS expires_in_ms,
       wait_us
FROM claimed JOIN granted USING (id)
