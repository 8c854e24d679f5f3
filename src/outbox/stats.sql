-- The queue at a glance.
SELECT account, status, jobs, paused, paused_why,
       (extract(epoch FROM oldest_due_age) * 1000)::bigint AS oldest_due_age_ms,
       (extract(epoch FROM now() - paused_since) * 1000)::bigint AS paused_for_ms
FROM sms_outbox.queue_stats
ORDER BY account, array_position(
    ARRAY['queued', 'sending', 'uncertain', 'failed', 'expired', 'cancelled', 'split', 'sent'], status)
