INSERT INTO plain_jobs (sender, recipients, body, iys, priority) VALUES ('SANDBOX', ARRAY[$1::text], $2, false, $3)
