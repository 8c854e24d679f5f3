-- Does a live pause hold the whole account?
--   $1 account
SELECT EXISTS (
    SELECT FROM sms_outbox.pauses
    WHERE account = $1 AND scope = 'account' AND ended_at IS NULL AND (until IS NULL OR until > now()))
