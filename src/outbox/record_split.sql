-- Records a list that the provider refuses because of numbers in it: they are left out, and what is sent on are jobs of their
-- own, written with the job's record or not at all. Guarded like record_other. One job at a time: it also writes to the whole
-- list, and two workers that did so for several would wait for one another.
--   $1 the claim, a JSON object as in record_other.sql   $2 the numbers that are refused
--   $3 the parts, a JSON array of arrays of numbers   $4 why what still waits of the whole list is given up (null: it is not)
WITH durable AS MATERIALIZED (
    SELECT CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END
), answer AS MATERIALIZED (
    SELECT answer.*
    FROM durable, jsonb_to_record($1::jsonb) AS answer (
        id uuid, token integer, rejected text[], error_class text, error_code integer, error_message text,
        observer text, progress text, http_status smallint, provider_code integer, ms integer)
), cut AS (
    UPDATE sms_outbox.jobs AS job
    SET status = CASE WHEN $3::jsonb = '[]' THEN 'failed' ELSE 'split' END, finished_at = now(), lease_until = NULL,
        rejected_recipients = nullif(coalesce(answer.rejected, job.rejected_recipients, '{}') || $2::text[], '{}'),
        error_class = answer.error_class, error_code = answer.error_code, error_message = answer.error_message
    FROM answer
    WHERE job.id = answer.id AND job.id = ANY (ARRAY(SELECT id FROM answer))
      AND job.token = answer.token AND job.status = 'sending'
    RETURNING job.*
), part AS (
    INSERT INTO sms_outbox.jobs (
        part_of, account, sender, recipients, body, iys, iys_list, priority, due_at, expires_at, provider_send_at, batch_id,
        max_attempts, metadata, traceparent, producer)
    SELECT coalesce(cut.part_of, cut.id), cut.account, cut.sender, ARRAY(SELECT jsonb_array_elements_text(part.numbers)), cut.body,
           cut.iys, cut.iys_list, cut.priority,
           -- A microsecond apart: the most telling ones go first.
           now() + part.place * interval '1 microsecond', cut.expires_at, cut.provider_send_at, cut.batch_id,
           cut.max_attempts, cut.metadata, cut.traceparent, cut.producer
    FROM cut CROSS JOIN jsonb_array_elements($3::jsonb) WITH ORDINALITY AS part (numbers, place)
), whole AS (
    UPDATE sms_outbox.jobs AS job
    SET rejected_recipients = coalesce(job.rejected_recipients, '{}') || $2::text[]
    FROM cut
    WHERE job.id = cut.part_of AND job.id = ANY (ARRAY(SELECT part_of FROM cut)) AND $2::text[] <> '{}'
), given_up AS (
    UPDATE sms_outbox.jobs AS job
    SET status = 'failed', finished_at = now(), error_class = cut.error_class, error_code = cut.error_code, error_message = $4
    FROM cut
    WHERE $4::text IS NOT NULL AND job.part_of = cut.part_of AND job.part_of IS NOT NULL AND job.status = 'queued'
      -- One that may have been taken is not given up.
      AND job.ambiguous_since IS NULL
    RETURNING job.id, job.account
), logged AS (
    INSERT INTO sms_outbox.attempt_log (
        job_id, token, observer, attempt, counted, worker, started_at, duration_ms, progress, http_status, provider_code,
        error_class, error_message)
    SELECT cut.id, cut.token, answer.observer, cut.attempt, true, cut.worker, cut.claimed_at, answer.ms, answer.progress,
           answer.http_status, answer.provider_code, answer.error_class, answer.error_message
    FROM cut JOIN answer USING (id)
    ON CONFLICT DO NOTHING
), told AS (
    INSERT INTO sms_outbox.change_log (account, jobs) SELECT account, array_agg(id) FROM (SELECT id, account FROM cut UNION ALL SELECT * FROM given_up) AS changed GROUP BY account
)
SELECT id FROM cut
