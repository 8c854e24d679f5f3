-- Jobs that have been due for longer than a minute, and whose wait nothing explains: no live pause, no outage, no queue that moves
-- before them. What has ended explains a minute more: then the workers have to be at it. One line for each account that has any,
-- with one of them.
--   $1 at most, for each account, priority and producer
WITH known AS MATERIALIZED (
    SELECT account.account,
           EXISTS (SELECT FROM sms_outbox.pauses AS pause
                   WHERE pause.account = account.account AND pause.scope = 'account'
                     AND coalesce(least(pause.ended_at, pause.until), 'infinity') > now() - interval '1 minute')
               OR coalesce(state.outage_since IS NOT NULL OR state.outage_ended_at > now() - interval '1 minute', false) AS explained,
           -- A priority is served while jobs of it, or of a smaller one, are being claimed.
           ARRAY(SELECT bool_or(coalesce(moment > now() - interval '10 seconds', false)) OVER (ORDER BY n)
                 FROM unnest(coalesce(state.claimed_at, '{}') || array_fill(NULL::timestamptz, ARRAY[4]))
                          WITH ORDINALITY AS served (moment, n)
                 ORDER BY n LIMIT 4) AS served,
           state.claimed_due_at
    FROM sms_outbox.queued_accounts() AS account
    LEFT JOIN sms_outbox.accounts AS state ON state.account = account.account
), waiting AS (
    SELECT known.account, job.id, job.due_at
    FROM known
    CROSS JOIN LATERAL sms_outbox.queued_producers(known.account) AS waiting
    CROSS JOIN LATERAL (
        SELECT id, due_at, sender, iys FROM sms_outbox.jobs
        WHERE account = known.account AND bulk = waiting.bulk AND priority = waiting.priority AND producer = waiting.producer
          AND status = 'queued' AND held IS NULL AND due_at <= now() - interval '1 minute'
        ORDER BY due_at, id
        LIMIT $1
    ) AS job
    WHERE NOT known.explained
      AND NOT EXISTS (
          SELECT FROM sms_outbox.pauses AS pause
          WHERE pause.account = known.account AND coalesce(least(pause.ended_at, pause.until), 'infinity') > now() - interval '1 minute'
            AND (pause.scope, pause.sender) IN (('sender', job.sender), (CASE WHEN job.iys THEN 'iys' END, '')))
      AND CASE
          WHEN waiting.bulk THEN NOT EXISTS (
              SELECT FROM sms_outbox.jobs AS other WHERE other.account = known.account AND other.status = 'sending' AND other.bulk)
          ELSE NOT coalesce(known.served[waiting.priority], false)
              AND NOT coalesce(known.served[waiting.priority + 1] AND known.claimed_due_at[waiting.priority + 1] <= job.due_at, false)
          END
    UNION ALL
    SELECT held.account, job.id, job.due_at
    FROM sms_outbox.held_senders() AS held CROSS JOIN LATERAL (
        SELECT one.id, one.due_at FROM sms_outbox.jobs AS one
        WHERE one.account = held.account AND one.held = held.held AND one.sender = held.sender
          AND one.status = 'queued' AND one.held IS NOT NULL AND one.due_at <= now() - interval '1 minute'
        LIMIT $1
    ) AS job
    WHERE NOT EXISTS (
        SELECT FROM sms_outbox.pauses AS pause
        WHERE pause.account = held.account
          AND (pause.scope, pause.sender) IN (
              (held.held, CASE WHEN held.held = 'sender' THEN held.sender ELSE '' END), ('account', ''))
          AND coalesce(least(pause.ended_at, pause.until), 'infinity') > now() - interval '1 minute')
    UNION ALL
    SELECT job.account, job.id, job.due_at
    FROM sms_outbox.jobs AS job
    WHERE job.status = 'sending' AND job.lease_until <= now() - interval '1 minute'
)
SELECT account, count(*) AS jobs, (extract(epoch FROM now() - min(due_at)) * 1000)::bigint AS oldest_ms,
       (array_agg(id ORDER BY due_at))[1] AS example
FROM waiting
GROUP BY account
ORDER BY account
