-- Records a scan that ended without a match.
--   $1 job   $2 token   $3 whether it was clean (null: it could not be finished)   $4 outcome (null: go on)
--   $5 ms to the next scan   $6 candidates   $7 note
UPDATE sms_outbox.reconciliation_tasks
SET scans = scans + CASE WHEN $3::boolean IS NULL THEN 0 ELSE 1 END,
    clean_scans = CASE WHEN $3 THEN clean_scans + 1 WHEN $3 IS NULL THEN clean_scans ELSE 0 END,
    outcome = $4,
    next_at = CASE WHEN $4::text IS NULL THEN now() + $5::bigint * interval '1 millisecond' END,
    candidates = coalesce($6, candidates),
    note = $7
WHERE job_id = $1 AND token = $2
