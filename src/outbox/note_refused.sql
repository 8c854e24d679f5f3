-- An outcome could not be written to this job's row: doctor names it, and its rescue is not tried again before retry_at.
--   $1 job   $2 account   $3 SQLSTATE   $4 constraint
INSERT INTO sms_outbox.refused_jobs AS known (job_id, account, sqlstate, rule, retry_at)
VALUES ($1, $2, $3, $4, now() + interval '30 seconds')
ON CONFLICT (job_id) DO UPDATE
SET sqlstate = excluded.sqlstate, rule = excluded.rule, refusals = known.refusals + 1,
    retry_at = now() + least(power(2, least(known.refusals, 10)) * interval '30 seconds', interval '1 hour')
