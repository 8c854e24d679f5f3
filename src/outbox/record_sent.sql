-- Records plain acceptances, many at once. Whoever records proves that it still holds the job: id, token and state.
--   arrays: $1 id   $2 token   $3 order id   $4 HTTP status   $5 ms to the answer   $6 hash of the content (40 bits)
WITH durable AS MATERIALIZED (
    SELECT CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END
), answer AS (
    SELECT answer.*
    FROM durable, unnest($1::uuid[], $2::integer[], $3::text[], $4::smallint[], $5::integer[], $6::bigint[])
        AS answer (id, token, order_id, http_status, ms, content)
)
UPDATE sms_outbox.jobs AS job
SET status = 'sent', order_id = answer.order_id, sent_at = now(), finished_at = now(), lease_until = NULL,
    answer_http_status = answer.http_status, answer_ms = answer.ms,
    twin_key = ((extract(epoch FROM now()) / 300)::bigint << 40) | answer.content,
    error_class = NULL, error_code = NULL, error_message = NULL
FROM answer
WHERE job.id = answer.id AND job.id = ANY ($1)
  AND job.token = answer.token AND job.status = 'sending'
RETURNING job.id
