-- Duplicates whose twin was not on record yet when they were: another worker was sending it at the same time. Only young ones
-- are looked at, and none that had a doubt of its own: that one is most likely its own twin.
--   $1 at most
WITH orphan AS MATERIALIZED (
    SELECT id, account, sender, body, twin_key
    FROM sms_outbox.jobs
    WHERE status = 'sent' AND order_id IS NULL AND sent_at > now() - interval '3 minutes'
      AND duplicate AND duplicate_of IS NULL AND ambiguous_since IS NULL
    ORDER BY sent_at DESC
    LIMIT $1
    FOR NO KEY UPDATE SKIP LOCKED
), twin AS MATERIALIZED (
    SELECT orphan.id, found.id AS twin_id, found.order_id
    FROM orphan
    CROSS JOIN LATERAL (
        SELECT job.id, job.order_id
        FROM sms_outbox.jobs AS job
        WHERE job.twin_key = ANY (ARRAY(
                SELECT orphan.twin_key - (back::bigint << 40) FROM generate_series(-1, 3) AS back))
          AND job.id <> orphan.id AND job.account = orphan.account AND job.body = orphan.body
          AND NOT job.duplicate AND (job.status = 'sent' OR job.ambiguous_since IS NOT NULL)
        ORDER BY job.order_id IS NULL, job.sender <> orphan.sender, job.sent_at DESC
        LIMIT 1
    ) AS found
)
UPDATE sms_outbox.jobs AS job
SET order_id = twin.order_id, duplicate_of = twin.twin_id
FROM twin
WHERE job.id = twin.id AND job.id = ANY (ARRAY(SELECT id FROM twin))
RETURNING job.id, job.duplicate_of
