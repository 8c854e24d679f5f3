-- A producer in any language: one INSERT, in the transaction that the message is about.
INSERT INTO sms_outbox.jobs (sender, recipients, body, iys)
VALUES ('YOURBRAND', ARRAY[$1], $2, false)
RETURNING id
