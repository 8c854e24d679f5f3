-- Jobs without a known order that may have been accepted, and sent exactly this: what is lost is little, and has its own indexes.
--   $1 account   $2 hashes of content, as in the low 40 bits of content_key
SELECT id, token, content_key & 1099511627775 AS content FROM sms_outbox.jobs
WHERE status IN ('queued', 'uncertain') AND ambiguous_since IS NOT NULL AND account = $1
  AND content_key IS NOT NULL AND content_key & 1099511627775 = ANY ($2)
UNION ALL
SELECT id, token, content_key & 1099511627775 AS content FROM sms_outbox.jobs
WHERE status = 'sent' AND order_id IS NULL AND account = $1
  AND content_key IS NOT NULL AND content_key & 1099511627775 = ANY ($2)
