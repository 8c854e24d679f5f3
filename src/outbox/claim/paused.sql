-- What every claim begins with: who of the account has to wait.
--   $1 account
WITH paused AS MATERIALIZED (
    SELECT coalesce(bool_or(scope = 'account'), false) AS account,
           coalesce(bool_or(scope = 'iys'), false) AS iys,
           coalesce(array_agg(sender) FILTER (WHERE scope = 'sender'), '{}') AS senders,
           -- A claim that a crash could take back would be a request without its marker.
           CASE WHEN current_setting('synchronous_commit') = 'off'
                THEN set_config('synchronous_commit', 'on', true) END AS durable
    FROM sms_outbox.pauses
    WHERE account = $1 AND ended_at IS NULL AND (until IS NULL OR until > now())
)
