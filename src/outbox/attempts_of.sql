-- The history of one job.
SELECT attempt, token, observer, counted, late, worker, duration_ms, progress, http_status, provider_code, error_class,
       error_message, order_id, said_by, evidence,
       to_char(started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS started_at
FROM sms_outbox.attempts
WHERE job_id = $1
ORDER BY token, sms_outbox.attempts.started_at, observer
