-- As people type them, good and bad.
INSERT INTO sms_outbox.jobs (sender, recipients, body, iys)
VALUES ('YOURBRAND', $1, $2, false)
RETURNING id
