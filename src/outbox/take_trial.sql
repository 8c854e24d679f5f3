-- In an outage in which the balance can be asked: this worker may try one new message. The next one only later: each of them may
-- become uncertain.
--   $1 account   $2 the first again after ms   $3 longest time between two in ms
UPDATE sms_outbox.accounts
SET trials = trials + 1,
    trial_at = now() + least($3::bigint, $2::bigint * power(2, least(trials, 20))) * interval '1 millisecond'
WHERE account = $1 AND outage_since IS NOT NULL AND trial_at <= now()
RETURNING account
