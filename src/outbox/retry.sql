-- Back to the queue by hand, with all attempts to spend: failed jobs only, because a person has looked at what failed. What
-- may not be sent any more stays as it is, with the reason why it failed.
--   $1 ids   $2 account   $3 error class   $4 sender   $5 batch   $6 at most
WITH chosen AS MATERIALIZED (
    SELECT id FROM sms_outbox.jobs
    WHERE status = 'failed' AND (expires_at IS NULL OR expires_at > now())
      -- One that an unanswered request stands behind may have been sent: it is retried by its id only, knowingly.
      AND ($1::uuid[] IS NOT NULL OR ambiguous_since IS NULL)
      AND ($1::uuid[] IS NULL OR id = ANY ($1))
      AND ($2::text IS NULL OR account = $2)
      AND ($3::text IS NULL OR error_class = $3)
      AND ($4::text IS NULL OR sender = $4)
      AND ($5::uuid IS NULL OR batch_id = $5)
    ORDER BY created_at
    LIMIT $6
    FOR NO KEY UPDATE SKIP LOCKED
), queued AS (
    UPDATE sms_outbox.jobs AS job
    SET status = 'queued', attempt = 0, due_at = now(), first_due_at = NULL, finished_at = NULL, ambiguous_since = NULL
    WHERE job.id = ANY (ARRAY(SELECT id FROM chosen))
    RETURNING job.id, job.account
), told AS (
    INSERT INTO sms_outbox.change_log (account, jobs) SELECT account, array_agg(id) FROM queued GROUP BY account
)
SELECT id FROM queued
