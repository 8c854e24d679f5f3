-- A person resolves an uncertain job.
--   $1 id   $2 sent, queued or failed   $3 order id
UPDATE sms_outbox.jobs AS job
SET status = $2,
    order_id = $3,
    sent_at = CASE WHEN $2 = 'sent' THEN now() END,
    finished_at = CASE WHEN $2 IN ('sent', 'failed') THEN now() END,
    -- To resend is to accept that it may arrive twice: the job is no longer indeterminate, or it would become uncertain again.
    ambiguous_since = CASE WHEN $2 = 'queued' THEN NULL ELSE ambiguous_since END,
    attempt = CASE WHEN $2 = 'queued' THEN 0 ELSE attempt END,
    due_at = CASE WHEN $2 = 'queued' THEN now() ELSE due_at END,
    error_class = CASE WHEN $2 = 'sent' THEN NULL ELSE coalesce(error_class, 'unknown') END,
    error_code = CASE WHEN $2 = 'sent' THEN NULL ELSE error_code END,
    error_message = CASE WHEN $2 = 'sent' THEN NULL WHEN $2 = 'failed' THEN 'Given up by hand.' ELSE error_message END
WHERE id = $1 AND status = 'uncertain'
  -- It would end as expired, which says that it was never accepted; and that is what nobody knows.
  AND ($2 <> 'queued' OR expires_at IS NULL OR expires_at > now())
RETURNING id
