-- Follows messages to the phone in SQL alone: what has changed is applied, and the cursor moved, in one statement. Whoever dies
-- before its commit has done nothing, and whoever runs it twice at once waits for the other.
--
-- Once, in the application's own schema:
--   CREATE TABLE sms_place (the_one boolean PRIMARY KEY DEFAULT true CHECK (the_one), cursor text NOT NULL DEFAULT '');
--   INSERT INTO sms_place DEFAULT VALUES;
--   CREATE TABLE sms_news (job_id uuid PRIMARY KEY, key text, status text, delivery text);
--
-- Every few seconds, and at once again while it says UPDATE 1:
WITH place AS MATERIALIZED (
    SELECT cursor FROM sms_place FOR UPDATE
), change AS MATERIALIZED (
    SELECT row_number() OVER () AS n, news.*
    FROM place CROSS JOIN LATERAL sms_outbox.changes(place.cursor, 1000) AS news
), applied AS (
    -- The application's part. A job may have changed twice, and is told as it stands now.
    INSERT INTO sms_news (job_id, key, status, delivery)
    SELECT DISTINCT ON (job_id) job_id, idempotency_key, status, delivery FROM change WHERE status IS NOT NULL ORDER BY job_id, n DESC
    ON CONFLICT (job_id) DO UPDATE SET status = excluded.status, delivery = excluded.delivery
)
UPDATE sms_place SET cursor = last.next_cursor
FROM (SELECT next_cursor FROM change ORDER BY n DESC LIMIT 1) AS last
