-- Cancels queued jobs. What is being sent cannot be recalled, and is not changed. Also says which of them had a request
-- that may have been accepted.
--   $1 ids   $2 account   $3 error class   $4 sender   $5 batch   $6 at most
WITH chosen AS MATERIALIZED (
    SELECT id FROM sms_outbox.jobs
    WHERE status = 'queued'
      AND ($1::uuid[] IS NULL OR id = ANY ($1))
      AND ($2::text IS NULL OR account = $2)
      AND ($3::text IS NULL OR error_class = $3)
      AND ($4::text IS NULL OR sender = $4)
      AND ($5::uuid IS NULL OR batch_id = $5)
    ORDER BY created_at
    LIMIT $6
    -- Waits for a claim that is under way, so that the answer is the truth and not a guess.
    FOR NO KEY UPDATE
), ended AS (
    UPDATE sms_outbox.jobs AS job
    SET status = 'cancelled', held = NULL, finished_at = now()
    WHERE job.id = ANY (ARRAY(SELECT id FROM chosen)) AND job.status = 'queued'
    RETURNING job.id, job.account, job.ambiguous_since
), told AS (
    INSERT INTO sms_outbox.change_log (account, jobs) SELECT account, array_agg(id) FROM ended GROUP BY account
)
SELECT id, ambiguous_since IS NOT NULL AS may_have_been_sent FROM ended
