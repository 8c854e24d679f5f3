-- Whose jobs wait, and how long those have been due that nothing holds back. Bulk orders go one at a time, so a long wait
-- says nothing about them.
WITH waiting AS (
    SELECT account, sender, iys, count(*) AS queued, min(due_at) FILTER (WHERE due_at <= now() AND NOT bulk) AS due_at
    FROM sms_outbox.jobs
    WHERE status = 'queued'
    GROUP BY account, sender, iys
), judged AS (
    SELECT waiting.*, EXISTS (
        SELECT FROM sms_outbox.pauses AS pause
        WHERE pause.account = waiting.account AND pause.ended_at IS NULL AND (pause.until IS NULL OR pause.until > now())
          AND (pause.scope = 'account' OR (pause.scope = 'sender' AND pause.sender = waiting.sender)
               OR (pause.scope = 'iys' AND waiting.iys))) AS held
    FROM waiting
), claims AS (
    SELECT account, max(claimed_at) AS last FROM sms_outbox.jobs GROUP BY account
)
SELECT judged.account, judged.sender, sum(judged.queued)::bigint AS queued,
       (extract(epoch FROM now() - min(judged.due_at) FILTER (WHERE NOT judged.held)) * 1000)::bigint AS oldest_due_age_ms,
       (extract(epoch FROM now() - max(claims.last)) * 1000)::bigint AS last_claim_ms
FROM judged JOIN claims USING (account)
GROUP BY judged.account, judged.sender
ORDER BY judged.account, judged.sender
