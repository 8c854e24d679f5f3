-- Duplicates that were recorded before their original: another worker was sending it at the same time. Only young
-- ones are looked at, and none that was indeterminate itself: such a job is most likely its own original.
--   $1 at most
WITH orphan AS MATERIALIZED (
    SELECT id, account, sender, body, content_key
    FROM sms_outbox.jobs
    WHERE status = 'sent' AND order_id IS NULL AND sent_at > now() - interval '3 minutes'
      AND duplicate AND duplicate_of IS NULL AND ambiguous_since IS NULL
    ORDER BY sent_at DESC
    LIMIT $1
    FOR NO KEY UPDATE SKIP LOCKED
), original AS MATERIALIZED (
    SELECT orphan.id, found.id AS original_id, found.order_id
    FROM orphan
    CROSS JOIN LATERAL (
        SELECT job.id, job.order_id
        FROM (
            SELECT * FROM sms_outbox.jobs
            WHERE content_key = ANY (ARRAY(
                SELECT orphan.content_key - (back::bigint << 40) FROM generate_series(-1, 3) AS back))
            -- As in record_other.sql.
            OFFSET 0
        ) AS job
        WHERE job.id <> orphan.id AND job.account = orphan.account AND normalize(job.body, NFC) = normalize(orphan.body, NFC)
          AND NOT job.duplicate AND (job.status = 'sent' OR job.ambiguous_since IS NOT NULL)
        ORDER BY job.order_id IS NULL, job.sender <> orphan.sender, job.sent_at DESC
        LIMIT 1
    ) AS found
), named AS (
    UPDATE sms_outbox.jobs AS job
    SET order_id = original.order_id, duplicate_of = original.original_id
    FROM original
    WHERE job.id = original.id AND job.id = ANY (ARRAY(SELECT id FROM original))
    RETURNING job.id, job.account, job.duplicate_of
), told AS (
    INSERT INTO sms_outbox.change_log (account, jobs) SELECT account, array_agg(id) FROM named GROUP BY account
)
SELECT id, duplicate_of FROM named
