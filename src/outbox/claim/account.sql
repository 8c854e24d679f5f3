-- What every claim begins with: who of the account has to wait, and under which limit.
--   $1 account   $4 recipients per second that this worker was given (0: no limit)   $7 whether an outage is ignored
WITH account AS MATERIALIZED (
    SELECT pausing.scopes && '{account}' AS paused,
           -- In an outage what may have been accepted is repeated, and nothing else: nothing becomes indeterminate by it.
           coalesce(NOT $7 AND (SELECT outage_since IS NOT NULL FROM sms_outbox.accounts WHERE account = $1), false) AS outage,
           pausing.scopes && '{iys}' AS iys,
           pausing.scopes && '{sender}' AS senders,
           EXISTS (SELECT FROM sms_outbox.refused_jobs WHERE account = $1 AND retry_at > now()) AS refused,
           sms_outbox.rate_per_second($1, $4) AS per_second,
           -- A claim that a crash could take back would be a request without its marker.
           CASE WHEN current_setting('synchronous_commit') = 'off'
                THEN set_config('synchronous_commit', 'on', true) END AS durable
    FROM (
        -- The first of each: an account may have thousands of paused senders.
        SELECT ARRAY(
            SELECT scope
            FROM (VALUES ('account'), ('iys'), ('sender')) AS known (scope)
            WHERE EXISTS (
                SELECT FROM sms_outbox.pauses AS pause
                WHERE pause.account = $1 AND pause.scope = known.scope
                  AND pause.ended_at IS NULL AND (pause.until IS NULL OR pause.until > now()))) AS scopes
    ) AS pausing
)
