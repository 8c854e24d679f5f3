-- Records plain acceptances, many at once. Whoever records proves that it still holds the job: id, token and state.
--   arrays: $1 id   $2 token   $3 order id   $4 HTTP status   $5 ms to the answer   $6 hash of the content (40 bits)
WITH durable AS MATERIALIZED (
    SELECT CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END
), recorded AS (
    UPDATE sms_outbox.jobs AS job
    SET status = 'sent', sent_at = now(), finished_at = now(), lease_until = NULL,
        -- No join with the arrays: for each of them the planner would read all of the others, and compare.
        (order_id, answer_http_status, answer_ms, content_key) = (
            SELECT ($3::text[])[place], ($4::smallint[])[place], ($5::integer[])[place],
                   ((extract(epoch FROM now()) / 300)::bigint << 40) | ($6::bigint[])[place]
            FROM array_position($1::uuid[], job.id) AS place),
        error_class = NULL, error_code = NULL, error_message = NULL
    WHERE job.id = ANY ((SELECT $1::uuid[] FROM durable)::uuid[])
      AND job.token = ($2::integer[])[array_position($1::uuid[], job.id)]
      -- Which is to say that it is sending (nothing else has a lease). Said with the status, the planner would think of the
      -- index of leases, which is nearly always empty when it is analysed, and full of dead entries when it is read.
      AND job.lease_until IS NOT NULL
    RETURNING job.id, job.account
), told AS (
    INSERT INTO sms_outbox.change_log (account, jobs) SELECT account, array_agg(id) FROM recorded GROUP BY account
)
SELECT id FROM recorded
