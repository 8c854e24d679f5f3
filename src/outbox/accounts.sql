-- How the provider does for each account, as the fleet knows it.
SELECT state.account, state.rate_per_second,
       ARRAY(SELECT worker.rate_per_second FROM sms_outbox.workers AS worker
             WHERE worker.account = state.account AND worker.seen_at > now() - interval '15 seconds'
             GROUP BY worker.rate_per_second ORDER BY worker.rate_per_second) AS limits,
       (SELECT count(*) FROM sms_outbox.workers AS worker
        WHERE worker.account = state.account AND worker.seen_at > now() - interval '15 seconds') AS workers,
       (extract(epoch FROM now() - state.accepted_at) * 1000)::bigint AS accepted_ms,
       (extract(epoch FROM now() - state.outage_since) * 1000)::bigint AS outage_ms,
       (extract(epoch FROM now() - state.failed_at) * 1000)::bigint AS failed_ms,
       state.failure_class, state.failure_message
FROM sms_outbox.accounts AS state
ORDER BY state.account
