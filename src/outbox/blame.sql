-- The provider's answer to one job blames the account. What is known that tells whether it is the account's failure or the job's.
--   $1 account   $2 job   $3 class   $4 message   $5 ms since this worker's last acceptance (null: none)
WITH known AS (
    INSERT INTO sms_outbox.accounts AS known (account, accepted_at, failed_at, failure_class, failure_message, blames)
    VALUES ($1, now() - $5::bigint * interval '1 millisecond', clock_timestamp(), $3, $4, 1)
    ON CONFLICT (account) DO UPDATE
    SET accepted_at = greatest(known.accepted_at, excluded.accepted_at),
        failed_at = excluded.failed_at, failure_class = excluded.failure_class, failure_message = excluded.failure_message,
        blames = CASE WHEN greatest(known.accepted_at, excluded.accepted_at) > known.failed_at THEN 1
                      ELSE least(known.blames, 1000) + 1 END
    RETURNING accepted_at, blames
), earlier AS (
    SELECT count(*)::integer AS answers, min(recorded_at) AS first_at
    FROM sms_outbox.attempt_log
    WHERE job_id = $2 AND progress = 'answered' AND NOT counted AND error_class IN ('auth', 'balance', 'account')
)
SELECT known.blames AS in_a_row, earlier.answers AS earlier,
       coalesce(known.accepted_at > earlier.first_at, false) AS accepted_meanwhile,
       coalesce(known.accepted_at > now() - interval '1 minute', false) AS accepted_lately
FROM known, earlier
