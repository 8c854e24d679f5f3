-- Every second: this worker serves the account. Keeps the limit of the fleet at the smallest that a live worker brings, writes down
-- what is known about the provider, and says what the others know.
--   $1 account   $2 worker   $3 its limit   ms since the last: $4 acceptance   $5 healthy answer
--   for priorities 0 to 3: $6 ms since the last claim   $7 when what was claimed then had been due
WITH others AS MATERIALIZED (
    SELECT rate_per_second FROM sms_outbox.workers
    WHERE account = $1 AND worker <> $2 AND seen_at > now() - interval '15 seconds'
), gone AS (
    DELETE FROM sms_outbox.workers
    WHERE account = $1 AND worker <> $2 AND seen_at <= now() - interval '15 seconds'
), here AS (
    INSERT INTO sms_outbox.workers AS known (worker, account, rate_per_second) VALUES ($2, $1, $3)
    ON CONFLICT (account, worker) DO UPDATE SET rate_per_second = excluded.rate_per_second, seen_at = now()
    RETURNING xmax = 0 AS is_new
), before AS MATERIALIZED (
    SELECT * FROM sms_outbox.accounts WHERE account = $1 FOR NO KEY UPDATE
), known AS (
    INSERT INTO sms_outbox.accounts AS known (account, rate_per_second, accepted_at, claimed_at, claimed_due_at)
    SELECT $1, coalesce(least(nullif($3, 0), (SELECT min(rate_per_second) FROM others WHERE rate_per_second > 0)), 0),
           now() - $4::bigint * interval '1 millisecond',
           ARRAY(SELECT now() - ms * interval '1 millisecond' FROM unnest($6::bigint[]) WITH ORDINALITY AS ago (ms, n) ORDER BY n),
           $7::timestamptz[]
    ON CONFLICT (account) DO UPDATE
    SET rate_per_second = excluded.rate_per_second,
        accepted_at = greatest(known.accepted_at, excluded.accepted_at),
        claimed_at = ARRAY(
            SELECT greatest(known.claimed_at[n], excluded.claimed_at[n]) FROM generate_series(1, 4) AS n),
        claimed_due_at = ARRAY(
            SELECT CASE WHEN excluded.claimed_at[n] >= coalesce(known.claimed_at[n], '-infinity')
                        THEN excluded.claimed_due_at[n] ELSE known.claimed_due_at[n] END
            FROM generate_series(1, 4) AS n),
        (outage_since, outage_ended_at, trials, trial_at) = (
            SELECT CASE WHEN answered.since THEN NULL ELSE known.outage_since END,
                   CASE WHEN answered.since THEN now() ELSE known.outage_ended_at END,
                   -- As in end_outage.sql, where an answer has ended it.
                   CASE WHEN answered.since THEN 0 ELSE known.trials END,
                   CASE WHEN answered.since THEN NULL ELSE known.trial_at END
            FROM (SELECT coalesce(known.outage_since < now() - $5::bigint * interval '1 millisecond', false) AS since) AS answered)
    RETURNING outage_since, rate_per_second
)
SELECT here.is_new, known.outage_since IS NOT NULL AS outage, known.rate_per_second,
       coalesce((SELECT rate_per_second FROM before), 0) AS rate_before,
       CASE WHEN known.outage_since IS NULL
            THEN (SELECT (extract(epoch FROM now() - outage_since) * 1000)::bigint FROM before) END AS outage_ended_ms,
       EXISTS (SELECT FROM others WHERE rate_per_second <> $3) AS limits_differ
FROM here, known
