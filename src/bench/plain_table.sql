-- What an application would have without us: the same columns, a primary key, and the id that PostgreSQL brings along.
CREATE TABLE plain_jobs (LIKE sms_outbox.jobs INCLUDING DEFAULTS INCLUDING GENERATED);
ALTER TABLE plain_jobs ALTER COLUMN id SET DEFAULT gen_random_uuid();
ALTER TABLE plain_jobs ADD PRIMARY KEY (id);
