-- What became of the other parts of a refused list so far.
--   $1 the job that was refused, the whole list or a part of it   $2 count up to so many single numbers
WITH whole AS MATERIALIZED (
    SELECT coalesce(job.part_of, job.id) AS id, job.part_of IS NOT NULL AS is_part FROM sms_outbox.jobs AS job WHERE job.id = $1
)
SELECT whole.is_part, coalesce(cardinality(list.recipients), 0) AS size,
       EXISTS (SELECT FROM sms_outbox.jobs AS part WHERE part.part_of = whole.id AND part.part_of IS NOT NULL AND part.status = 'sent')
           AS has_accepted,
       (SELECT count(*) FROM (
            SELECT FROM sms_outbox.jobs AS part
            WHERE part.part_of = whole.id AND part.part_of IS NOT NULL AND part.status = 'failed'
              AND part.error_class = 'recipients' AND cardinality(part.recipients) = 1
            LIMIT $2) AS alone) AS refused_alone
FROM whole LEFT JOIN sms_outbox.jobs AS list ON list.id = whole.id AND list.id = ANY (ARRAY(SELECT id FROM whole))
