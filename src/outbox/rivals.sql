-- Other messages of the sender that an order of this time may belong to as well: everything whose outcome is not known.
--   $1 job   $2 account   $3 sender   $4, $5 the time in question, microseconds since 1970   $6 at most
--   $7 how many numbers it must have at least
WITH open AS (
    SELECT id, account, sender, recipients, coalesce(ambiguous_since, claimed_at) AS since FROM sms_outbox.jobs
    WHERE status = 'sending'
    UNION ALL
    SELECT id, account, sender, recipients, ambiguous_since FROM sms_outbox.jobs
    WHERE status IN ('queued', 'uncertain') AND ambiguous_since IS NOT NULL AND account = $2
    UNION ALL
    SELECT id, account, sender, recipients, coalesce(ambiguous_since, claimed_at) FROM sms_outbox.jobs
    WHERE status = 'sent' AND order_id IS NULL AND duplicate_of IS NULL
      AND sent_at >= to_timestamp($4 / 1000000.0)
)
SELECT id, cardinality(recipients) AS recipient_count FROM open
WHERE id <> $1 AND account = $2 AND sender = $3
  AND since <= to_timestamp($5 / 1000000.0) AND cardinality(recipients) >= $7
LIMIT $6
