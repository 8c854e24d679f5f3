-- Writes what was learnt of deliveries. Whoever writes proves that it has read the latest: otherwise nothing is written, and it
-- reads again. A status that is another one is told.
--   arrays: $1 job   $2 account   $3 writes when it was read (0: there was no row)   $4 facts   $5 places   $6 status   $7 total
--   $8 delivered   $9 undelivered   $10 conflicts   $11 source   $12 price   $13 whether the status is final   $14 whether it is new
WITH durable AS MATERIALIZED (
    SELECT CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END
), learnt AS MATERIALIZED (
    SELECT learnt.*
    FROM durable, unnest(
        $1::uuid[], $2::text[], $3::integer[], $4::smallint[], $5::text[], $6::text[], $7::integer[], $8::integer[], $9::integer[],
        $10::integer[], $11::text[], $12::text[], $13::boolean[], $14::boolean[])
        AS learnt (job_id, account, read, facts, places, status, total, delivered, undelivered, conflicts, source, price, final, new)
), written AS (
    INSERT INTO sms_outbox.deliveries AS known (
        job_id, account, writes, facts, places, status, total, delivered, undelivered, conflicts, source, price, finished_at)
    SELECT job_id, account, read + 1, facts, places, status, total, delivered, undelivered, conflicts, source, price::numeric(14,4),
           CASE WHEN final THEN now() END
    FROM learnt
    -- Two writers of the same jobs do not wait for one another crosswise.
    ORDER BY job_id
    ON CONFLICT (job_id) DO UPDATE
    SET writes = excluded.writes, facts = excluded.facts, places = excluded.places, status = excluded.status, total = excluded.total,
        delivered = excluded.delivered, undelivered = excluded.undelivered, conflicts = excluded.conflicts, source = excluded.source,
        price = greatest(known.price, excluded.price), changed_at = now(),
        finished_at = CASE WHEN known.status = excluded.status THEN known.finished_at ELSE excluded.finished_at END
    WHERE known.writes = excluded.writes - 1
    RETURNING known.job_id, known.account
), told AS (
    INSERT INTO sms_outbox.change_log (account, jobs)
    SELECT written.account, array_agg(written.job_id)
    FROM written JOIN learnt ON learnt.job_id = written.job_id AND learnt.new
    GROUP BY written.account
)
SELECT job_id FROM written
