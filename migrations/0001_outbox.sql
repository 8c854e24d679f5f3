-- The outbox: one table that producers write, one history that is only appended to, and the little state that a fleet of
-- workers shares. Everything lives in the schema sms_outbox; nothing outside it is touched. PostgreSQL 14 to 18.
--
--   Ids                    uuid_v7
--   Jobs                   jobs: what a producer says, what became of it, the claim
--   The rules of producers job_rules, keeps_the_rules, checked_job, may_write_status, claim_token, job_id
--   The indexes of jobs
--   History                attempt_log, attempts
--   Accounts               accounts, workers
--   Pauses                 pauses
--   Refused rows           refused_jobs, refusals
--   The limit              rate_limits, reserve_slots
--   Database identity      database_identity, current_database_identity
--   Reconciliation         reconciliation_tasks
--   Deliveries             deliveries, number_delivery, recipients, change_log, delivery_inbox, delivery_checks, messages, batches, changes
--   Maintenance            maintenance_leases
--   Numbers                normalize_number
--   Long lists             enqueue_bulk
--   Priority limits        priority_limits, hold_to_priority_limit
--   The queue at a glance  queue_stats
--   Retention              prune

CREATE SCHEMA IF NOT EXISTS sms_outbox;
COMMENT ON SCHEMA sms_outbox IS 'Transactional outbox for SMS: rows inserted here are sent by sms-outbox workers.';

---------------------------------------------------------------------------------------------------------------------- Ids

-- Time-ordered ids keep inserts on the right-hand edge of the primary key. Bodies are parsed at definition (RETURN), so a
-- caller's search_path cannot change what they mean. What is random, and the variant, is that of a version 4 uuid.
CREATE FUNCTION sms_outbox.uuid_v7() RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN (
    lpad(to_hex(floor(date_part('epoch', clock_timestamp()) * 1000)::bigint), 12, '0') || '7' || right(gen_random_uuid()::text, 21)
)::uuid;
COMMENT ON FUNCTION sms_outbox.uuid_v7() IS
    'A version 7 uuid (RFC 9562): 48 bits of milliseconds since 1970, then randomness.';

--------------------------------------------------------------------------------------------------------------------- Jobs

-- Checked where the row is put together, in jobs.bulk: before the primary key's NOT NULL, whose error shows the whole row.
-- The column itself keeps its plain type: drivers that look at the type of a parameter would refuse a uuid for a domain.
CREATE DOMAIN sms_outbox.job_id AS uuid
    CONSTRAINT jobs_id_required CHECK (VALUE IS NOT NULL);
COMMENT ON DOMAIN sms_outbox.job_id IS 'The id of a job. A rule for producers that has to be read before all others.';
COMMENT ON CONSTRAINT jobs_id_required ON DOMAIN sms_outbox.job_id IS
    'An id is there: a producer that has none leaves the column out, and gets the default.';

-- Only id is NOT NULL here: PostgreSQL reads that before every rule, and its error shows the row, with its numbers and its
-- text, to the client and to the server's log. What else has to be there is required by sms_outbox.job_rules, which shows
-- nothing.
CREATE TABLE sms_outbox.jobs (
    -- What a producer says, and no worker changes on the way to sent. It stands first, so that an update that stays on its page
    -- logs none of it: 1,164 bytes of log to claim and record a job, and 1,532 where all columns stand by width (20,000 jobs of
    -- 79 characters after a checkpoint, fillfactor 50). Within it by width, so that nothing is padded.
    id                  uuid        NOT NULL DEFAULT sms_outbox.uuid_v7(),
    due_at              timestamptz DEFAULT now(),
    created_at          timestamptz DEFAULT now(),
    expires_at          timestamptz,
    provider_send_at    timestamptz,
    batch_id            uuid,
    max_attempts        smallint    DEFAULT 15,
    priority            smallint    DEFAULT 1,
    iys                 boolean,
    bulk                boolean     GENERATED ALWAYS AS (
        id::sms_outbox.job_id IS NOT NULL AND (cardinality(recipients) > 100 OR (batch_id IS NOT NULL AND part_of IS NULL))) STORED,
    account             text        DEFAULT 'default',
    sender              text,
    recipients          text[],
    body                text,
    metadata            jsonb       DEFAULT '{}',
    iys_list            text,
    idempotency_key     text,
    traceparent         text,
    producer            text        DEFAULT SESSION_USER,

    -- The claim and what became of it. Only workers and operators write from here on: what the claim writes and the outcome
    -- leaves stands at the two ends.
    claimed_at          timestamptz,
    lease_until         timestamptz,
    first_due_at        timestamptz,
    ambiguous_since     timestamptz,
    sent_at             timestamptz,
    finished_at         timestamptz,
    content_key         bigint,
    duplicate_of        uuid,
    part_of             uuid,
    token               integer     DEFAULT 0,
    answer_ms           integer,
    error_code          integer,
    answer_http_status  smallint,
    attempt             smallint    DEFAULT 0,
    duplicate           boolean     DEFAULT false,
    status              text        DEFAULT 'queued',
    order_id            text,
    held                text,
    error_class         text,
    error_message       text,
    rejected_recipients text[],
    worker              text,

    CONSTRAINT jobs_pkey PRIMARY KEY (id),
    -- Of all rows, not only of those that have a key: producers write ON CONFLICT (account, idempotency_key).
    CONSTRAINT jobs_idempotency_key_unique_per_account UNIQUE (account, idempotency_key)
) WITH (
    -- Room on the row's own page for most of its two updates. Bytes on disk of a finished job with its indexes, and bytes of log to
    -- claim and record it after a checkpoint, in waves of 20,000:
    --   30 characters, no key    50: 692, 1,098    55: 671, 1,120    60: 655, 1,210    65: 634, 1,239
    --   79 characters, a key     50: 828, 1,317    55: 794, 1,446    60: 748, 1,455    65: 706, 1,537
    -- (All columns by width, thirteen indexes, 50: 721, 1,179 and 855, 1,379.)
    fillfactor = 55,
    -- Every job is updated twice at least, and finished rows pile up: vacuum by count, not by share of a growing table.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 20000
);
COMMENT ON TABLE sms_outbox.jobs IS
    'One row per message to be sent. Producers insert, workers move the status on, anyone may ask. What a producer may say: '
    '\dD+ sms_outbox.job_rules.';
COMMENT ON CONSTRAINT jobs_pkey ON sms_outbox.jobs IS
    'Every statement that goes by id: record_*.sql, and the second half of whatever chooses rows first.';
COMMENT ON CONSTRAINT jobs_idempotency_key_unique_per_account ON sms_outbox.jobs IS
    'One key makes one job in its account, for as long as the job is kept. The error shows the key: put no number into it.';

-- What a producer says.
COMMENT ON COLUMN sms_outbox.jobs.id IS 'The job. A version 7 uuid unless the producer chose its own. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.account IS 'Which provider account pays and limits. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.sender IS
    'Approved header, 1 to 11 printable ASCII characters; case and spaces count. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.recipients IS
    '1 to 50,000 mobile numbers in any spelling that people type or paste. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.body IS
    'The message text, at most 10,000 characters; sent in Unicode normal form C. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.iys IS
    'Whether it markets something, so that consent is checked in the registry (IYS). No default: the legal question is '
    'answered by whoever writes the row. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.iys_list IS
    'Which consent list: BIREYSEL (individuals) or TACIR (merchants). Present exactly when iys is true. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.priority IS
    '0 (one-time passwords) to 3 (campaigns); smaller goes first. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.due_at IS 'Not before this moment. Written by the producer; a retry moves it.';
COMMENT ON COLUMN sms_outbox.jobs.expires_at IS 'Never sent at or after this moment. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.provider_send_at IS
    'When the provider is to send it, if the schedule is handed over (sendDateTime; whole minutes); earlier than expires_at. '
    'Left out of the request once it has passed. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.idempotency_key IS
    'Unique per account, also after the job has ended: inserting twice with one key makes one job. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.max_attempts IS
    'How many requests that may have reached the provider are tried before giving up; what surely never arrived, was throttled or '
    'blames the account spends none. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.metadata IS 'The producer''s own; workers never read it. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.traceparent IS
    'W3C trace context, carried on into the worker''s spans. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.producer IS
    'The database role that inserted the row: the one that logged in, whatever SET ROLE says. Within a priority each producer '
    'gets its turn. Filled by the database.';
COMMENT ON COLUMN sms_outbox.jobs.batch_id IS
    'Shared by the jobs that enqueue_bulk cut one long list into; null otherwise. Written by enqueue_bulk.';

-- What became of it. Only workers and operators write from here on.
COMMENT ON COLUMN sms_outbox.jobs.status IS
    'queued, sending, sent, split, failed, uncertain, expired or cancelled. Written by workers and operators.';
COMMENT ON COLUMN sms_outbox.jobs.attempt IS
    'How many attempts have been spent; while sending, the number of the one under way. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.order_id IS
    'The provider''s number for the order. For a duplicate, that of the original where it is known. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.duplicate IS
    'Whether the provider answered 451: the same content had been accepted a short while before. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.duplicate_of IS
    'The original: the job of ours whose content was accepted instead. Null for a duplicate of itself, or of a message that is '
    'not ours. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.part_of IS
    'The job whose list this is a part of: it was refused because of numbers in it, and is split. Null for what a producer wrote. '
    'Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.rejected_recipients IS
    'Those of the recipients that could not be read and were left out, as they were written; and those that the provider refuses, '
    'in their one spelling, also those that were found in parts of the list. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.error_class IS
    'What kind of failure the last attempt met; null once sent. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.error_code IS 'The provider''s own number for it, where there was one. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.error_message IS
    'A sentence about it; never holds a number, a text or a credential. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.ambiguous_since IS
    'When the first attempt was claimed that may have been accepted and was never answered; the job is indeterminate. The '
    'provider''s duplicate guard protects repeats only for a while after it. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.created_at IS 'When the row was inserted. Written by the default.';
COMMENT ON COLUMN sms_outbox.jobs.sent_at IS 'When its acceptance was recorded. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.finished_at IS 'When it reached a final status. Written by workers and operators.';

-- The claim.
COMMENT ON COLUMN sms_outbox.jobs.token IS
    'Counts the claims of this job. A worker may only record what it did under the claim it still holds. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.worker IS 'Who claimed it last. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.claimed_at IS 'When it was claimed last. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.lease_until IS
    'Until when the claim holds; after it, whoever looks recovers the job as "may have been sent". Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.first_due_at IS
    'When it was due before a retry moved due_at; null: due_at was never moved. Bounds for how long it is tried. Written by workers '
    'and operators.';
COMMENT ON COLUMN sms_outbox.jobs.answer_http_status IS
    'HTTP status of the accepting answer, where the claim that asked for it recorded it. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.answer_ms IS
    'Milliseconds from the start of that request to its answer. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.content_key IS
    'Finds jobs of equal content: number of the five minutes since 1970 in the high 24 bits, 40 bits of a hash of account, '
    'numbers and text in the low ones. Set once the content may have been accepted. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.held IS
    'Out of the claim''s way because of a live pause of this scope (sender or iys): a claim would have to step over every message '
    'of a paused sender, each time. What the pauses say decides: workers compare the two all the time, in both directions. '
    'Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.bulk IS
    'A bulk order (more than 100 numbers, or a job of a batch): one at a time per account, outside the per-second limit. '
    'Computed.';

--------------------------------------------------------------------------------------------------- The rules of producers

-- A dump is restored, and an operator repairs, with rows that hold what workers wrote. Who may change it anyway may bring it
-- along. So may who could not name the columns in an INSERT: they have a right to change other columns of such rows.
CREATE FUNCTION sms_outbox.may_write_status() RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    RETURN pg_catalog.has_column_privilege('sms_outbox.jobs', 'status', 'UPDATE')
        OR NOT pg_catalog.has_column_privilege('sms_outbox.jobs', 'status', 'INSERT');
END
$$;
COMMENT ON FUNCTION sms_outbox.may_write_status() IS
    'Whether what workers write is taken from this session: it may update jobs.status, or could not name it in an INSERT.';

-- Programming errors: they fail the insert with SQLSTATE 23514, the name of the constraint says what is wrong, and the error
-- shows nothing of the row.
--
-- Not CHECKs of the table: PostgreSQL reads those anew for every statement that writes to it, and their errors show the row.
-- The rules of a domain are read once in a session, and made ready to run for every statement: some 20 ns for each column,
-- function, operator and AND in them, asked or not. So the rules below are asked only about rows that sms_outbox.checked_job
-- does not find plainly right at once. A domain over the table's own row type, because an expression that names each column
-- would cost twice as much. What workers promise about their own writing is no rule here, because every insert would pay for
-- it (48 of 108 microseconds once); the tests hold workers to it (tests/it/support/promises.sql).
CREATE DOMAIN sms_outbox.job_rules AS sms_outbox.jobs
    CONSTRAINT jobs_account_not_empty CHECK ((VALUE).account <> '')
    CONSTRAINT jobs_account_at_most_64_characters CHECK (char_length((VALUE).account) <= 64)
    CONSTRAINT jobs_sender_required CHECK ((VALUE).sender IS NOT NULL)
    CONSTRAINT jobs_sender_has_1_to_11_characters CHECK ((VALUE).sender <> '' AND char_length((VALUE).sender) <= 11)
    CONSTRAINT jobs_sender_is_printable_ascii_and_not_blank CHECK ((VALUE).sender ~ '^ *[!-~][ -~]*$')
    CONSTRAINT jobs_recipients_required CHECK ((VALUE).recipients IS NOT NULL)
    CONSTRAINT jobs_recipients_has_1_to_50000_numbers CHECK (cardinality((VALUE).recipients) BETWEEN 1 AND 50000)
    CONSTRAINT jobs_recipients_is_a_flat_list CHECK (array_ndims((VALUE).recipients) = 1)
    CONSTRAINT jobs_recipients_of_at_most_64_characters CHECK (
        (VALUE).recipients = (VALUE).recipients::varchar(64)[]::text[])
    CONSTRAINT jobs_body_required CHECK ((VALUE).body IS NOT NULL)
    CONSTRAINT jobs_body_not_empty CHECK ((VALUE).body <> '')
    CONSTRAINT jobs_body_at_most_10000_characters CHECK (
        octet_length((VALUE).body) <= 40000 AND char_length((VALUE).body) <= 10000)
    CONSTRAINT jobs_iys_required CHECK ((VALUE).iys IS NOT NULL)
    CONSTRAINT jobs_iys_list_exactly_when_iys CHECK ((VALUE).iys = ((VALUE).iys_list IS NOT NULL))
    CONSTRAINT jobs_iys_list_is_bireysel_or_tacir CHECK ((VALUE).iys_list IN ('BIREYSEL', 'TACIR'))
    CONSTRAINT jobs_apitest_sender_needs_iys_false CHECK (NOT ((VALUE).iys AND (VALUE).sender = 'APITEST'))
    CONSTRAINT jobs_priority_is_0_to_3 CHECK ((VALUE).priority IN (0, 1, 2, 3))
    CONSTRAINT jobs_max_attempts_at_least_1 CHECK ((VALUE).max_attempts >= 1)
    CONSTRAINT jobs_due_at_in_years_1_to_9999 CHECK (
        (VALUE).due_at <@ tstzrange '[0001-01-01 00:00:00+00, 10000-01-01 00:00:00+00)')
    CONSTRAINT jobs_expires_at_in_years_1_to_9999 CHECK (
        (VALUE).expires_at <@ tstzrange '[0001-01-01 00:00:00+00, 10000-01-01 00:00:00+00)')
    CONSTRAINT jobs_provider_send_at_in_years_1_to_9999 CHECK (
        (VALUE).provider_send_at <@ tstzrange '[0001-01-01 00:00:00+00, 10000-01-01 00:00:00+00)')
    CONSTRAINT jobs_provider_send_at_before_expires_at CHECK ((VALUE).provider_send_at < (VALUE).expires_at)
    CONSTRAINT jobs_idempotency_key_not_empty CHECK ((VALUE).idempotency_key <> '')
    CONSTRAINT jobs_idempotency_key_at_most_255_characters CHECK (char_length((VALUE).idempotency_key) <= 255)
    CONSTRAINT jobs_metadata_at_most_64_kilobytes CHECK (pg_column_size((VALUE).metadata) <= 65536)
    CONSTRAINT jobs_traceparent_at_most_128_characters CHECK (char_length((VALUE).traceparent) <= 128)
    CONSTRAINT jobs_columns_with_a_default_are_not_null CHECK (
        num_nulls((VALUE).account, (VALUE).priority, (VALUE).due_at, (VALUE).max_attempts, (VALUE).metadata, (VALUE).producer,
                  (VALUE).status, (VALUE).attempt, (VALUE).token, (VALUE).duplicate, (VALUE).created_at) = 0)
    CONSTRAINT jobs_what_the_database_and_workers_write_is_left_out CHECK (
        (VALUE).producer = SESSION_USER AND (VALUE).created_at = now()
        AND (VALUE).status = 'queued' AND (VALUE).attempt = 0 AND (VALUE).token = 0 AND NOT (VALUE).duplicate
        AND num_nonnulls(
            (VALUE).claimed_at, (VALUE).lease_until, (VALUE).first_due_at, (VALUE).ambiguous_since, (VALUE).sent_at,
            (VALUE).finished_at,
            (VALUE).content_key, (VALUE).duplicate_of, (VALUE).answer_ms, (VALUE).error_code, (VALUE).answer_http_status,
            (VALUE).part_of, (VALUE).order_id, (VALUE).held, (VALUE).error_class, (VALUE).error_message, (VALUE).rejected_recipients,
            (VALUE).worker) = 0
        OR sms_outbox.may_write_status());
COMMENT ON DOMAIN sms_outbox.job_rules IS
    'A row of sms_outbox.jobs that breaks none of the rules for producers. \dD+ sms_outbox.job_rules shows them.';
COMMENT ON CONSTRAINT jobs_account_not_empty ON DOMAIN sms_outbox.job_rules IS 'An account has a name.';
COMMENT ON CONSTRAINT jobs_account_at_most_64_characters ON DOMAIN sms_outbox.job_rules IS 'The name of an account is short.';
COMMENT ON CONSTRAINT jobs_sender_required ON DOMAIN sms_outbox.job_rules IS 'Every message says who sends it.';
COMMENT ON CONSTRAINT jobs_sender_has_1_to_11_characters ON DOMAIN sms_outbox.job_rules IS
    'A sender is 1 to 11 characters long; the provider approves no longer ones.';
COMMENT ON CONSTRAINT jobs_sender_is_printable_ascii_and_not_blank ON DOMAIN sms_outbox.job_rules IS
    'A sender consists of what ASCII can print, and not of spaces alone; the provider approves no others.';
COMMENT ON CONSTRAINT jobs_recipients_required ON DOMAIN sms_outbox.job_rules IS 'Every message goes to somebody.';
COMMENT ON CONSTRAINT jobs_recipients_has_1_to_50000_numbers ON DOMAIN sms_outbox.job_rules IS
    'A message goes to 1 to 50,000 numbers, which is what the provider takes at once; enqueue_bulk cuts longer lists.';
COMMENT ON CONSTRAINT jobs_recipients_is_a_flat_list ON DOMAIN sms_outbox.job_rules IS
    'The numbers are a list, and no table of lists.';
COMMENT ON CONSTRAINT jobs_recipients_of_at_most_64_characters ON DOMAIN sms_outbox.job_rules IS
    'No number is longer than 64 characters, whatever its spelling.';
COMMENT ON CONSTRAINT jobs_body_required ON DOMAIN sms_outbox.job_rules IS 'Every message has a text.';
COMMENT ON CONSTRAINT jobs_body_not_empty ON DOMAIN sms_outbox.job_rules IS 'The text is not empty.';
COMMENT ON CONSTRAINT jobs_body_at_most_10000_characters ON DOMAIN sms_outbox.job_rules IS
    'The text has at most 10,000 characters. The provider takes some 1,000; but how long a text becomes is data, and no '
    'programming error.';
COMMENT ON CONSTRAINT jobs_iys_required ON DOMAIN sms_outbox.job_rules IS
    'Whether a message markets something is said by whoever writes it: there is no default for a legal question.';
COMMENT ON CONSTRAINT jobs_iys_list_exactly_when_iys ON DOMAIN sms_outbox.job_rules IS
    'A message that markets something names the consent list, and no other message does.';
COMMENT ON CONSTRAINT jobs_iys_list_is_bireysel_or_tacir ON DOMAIN sms_outbox.job_rules IS
    'The consent list is BIREYSEL (individuals) or TACIR (merchants).';
COMMENT ON CONSTRAINT jobs_apitest_sender_needs_iys_false ON DOMAIN sms_outbox.job_rules IS
    'The provider''s test sender APITEST markets nothing.';
COMMENT ON CONSTRAINT jobs_priority_is_0_to_3 ON DOMAIN sms_outbox.job_rules IS
    'A priority is 0 (one-time passwords), 1, 2 or 3 (campaigns).';
COMMENT ON CONSTRAINT jobs_max_attempts_at_least_1 ON DOMAIN sms_outbox.job_rules IS 'Every message may be tried once at least.';
COMMENT ON CONSTRAINT jobs_due_at_in_years_1_to_9999 ON DOMAIN sms_outbox.job_rules IS
    'The moment comes: it is no infinity, and of no year that only PostgreSQL can write.';
COMMENT ON CONSTRAINT jobs_expires_at_in_years_1_to_9999 ON DOMAIN sms_outbox.job_rules IS
    'What never expires has no expires_at, and no infinity or year 10000 in it.';
COMMENT ON CONSTRAINT jobs_provider_send_at_in_years_1_to_9999 ON DOMAIN sms_outbox.job_rules IS
    'The moment that the provider is given comes, and its year has four digits.';
COMMENT ON CONSTRAINT jobs_provider_send_at_before_expires_at ON DOMAIN sms_outbox.job_rules IS
    'The provider is given no moment at which the message is worthless.';
COMMENT ON CONSTRAINT jobs_idempotency_key_not_empty ON DOMAIN sms_outbox.job_rules IS
    'A key says something: a message without one leaves the column out.';
COMMENT ON CONSTRAINT jobs_idempotency_key_at_most_255_characters ON DOMAIN sms_outbox.job_rules IS
    'A key is short: it stands in an index.';
COMMENT ON CONSTRAINT jobs_metadata_at_most_64_kilobytes ON DOMAIN sms_outbox.job_rules IS
    'The producer''s own data takes at most 64 kB (pg_column_size).';
COMMENT ON CONSTRAINT jobs_traceparent_at_most_128_characters ON DOMAIN sms_outbox.job_rules IS
    'A trace context is short: version 00 has 55 characters.';
COMMENT ON CONSTRAINT jobs_columns_with_a_default_are_not_null ON DOMAIN sms_outbox.job_rules IS
    'A column that has a default is left out to get it: account, priority, due_at, max_attempts and metadata, and those of the '
    'database and the workers that are never null.';
COMMENT ON CONSTRAINT jobs_what_the_database_and_workers_write_is_left_out ON DOMAIN sms_outbox.job_rules IS
    'A producer leaves out created_at and producer, and what tells of claims and outcomes: nobody but a worker knows.';

CREATE FUNCTION sms_outbox.keeps_the_rules(job sms_outbox.jobs) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    RETURN job::sms_outbox.job_rules IS DISTINCT FROM NULL;
END
$$;
COMMENT ON FUNCTION sms_outbox.keeps_the_rules(sms_outbox.jobs) IS
    'True, or the error of the rule of sms_outbox.job_rules that the row breaks.';

-- What is plainly right: each line is at least as strict as the rules about its columns, and null (no answer) is not right. A
-- function is made ready only when it is called, so a plain insert pays for these lines and not for the rules.
CREATE DOMAIN sms_outbox.checked_job AS sms_outbox.jobs
    CONSTRAINT jobs_plainly_right_or_asked_about CHECK (
        (VALUE).sender <> 'APITEST' AND octet_length((VALUE).sender) <= 11 AND (VALUE).sender ~ '^ *[!-~][ -~]*$'
        -- A new array, which is not compressed: with it, 92 bytes hold no number of more than 64.
        AND array_ndims((VALUE).recipients) = 1 AND pg_column_size(trim_array((VALUE).recipients, 0)) <= 92
        AND int4range '[1,10000]' @> octet_length((VALUE).body)
        AND (VALUE).iys = ((VALUE).iys_list IS NOT NULL) AND ((VALUE).iys_list IN ('BIREYSEL', 'TACIR')) IS NOT FALSE
        AND int4range '[1,64]' @> octet_length((VALUE).account)
        AND (VALUE).priority IN (0, 1, 2, 3) AND (VALUE).max_attempts >= 1
        AND (VALUE).due_at <@ tstzrange '[0001-01-01 00:00:00+00, 10000-01-01 00:00:00+00)'
        AND ((VALUE).expires_at <@ tstzrange '[0001-01-01 00:00:00+00, 10000-01-01 00:00:00+00)') IS NOT FALSE
        AND (VALUE).provider_send_at IS NULL
        AND (int4range '[1,255]' @> octet_length((VALUE).idempotency_key)) IS NOT FALSE
        AND (octet_length((VALUE).traceparent) > 128) IS NOT TRUE
        AND pg_column_size((VALUE).metadata) <= 65536
        -- As may_write_status. Who has the columns that producers need, and no others, is asked nothing more.
        AND num_nulls((VALUE).producer, (VALUE).status, (VALUE).attempt, (VALUE).token, (VALUE).duplicate, (VALUE).created_at) = 0
        AND (has_column_privilege('sms_outbox.jobs'::regclass, 'status', 'UPDATE')
             OR NOT has_column_privilege('sms_outbox.jobs'::regclass, 'status', 'INSERT'))
        OR sms_outbox.keeps_the_rules(VALUE));
COMMENT ON DOMAIN sms_outbox.checked_job IS 'A row of sms_outbox.jobs that is plainly right, or was held to sms_outbox.job_rules.';
COMMENT ON CONSTRAINT jobs_plainly_right_or_asked_about ON DOMAIN sms_outbox.checked_job IS
    'Never broken by this name: what is not plainly right keeps the rules, or breaks one of them by its own name.';

-- Rows with a token are not held to the rules: whoever could write one would go round them all.
CREATE DOMAIN sms_outbox.claim_token AS integer
    CONSTRAINT jobs_token_is_left_out CHECK (
        VALUE = 0 OR has_column_privilege('sms_outbox.jobs'::regclass, 'status', 'UPDATE') OR sms_outbox.may_write_status());
COMMENT ON DOMAIN sms_outbox.claim_token IS 'jobs.token as whoever writes the row may set it. A rule for producers.';
COMMENT ON CONSTRAINT jobs_token_is_left_out ON DOMAIN sms_outbox.claim_token IS
    'A producer leaves token out: claims are counted by workers.';

-- Asked when a row comes, and not again once it was claimed: what a producer has said does not change on the way, and asking
-- would take 3.3 of the 32 microseconds that claiming and recording a job take the server. Short, because PostgreSQL reads it
-- anew for every statement.
ALTER TABLE sms_outbox.jobs
    ADD CONSTRAINT jobs_keep_the_rules CHECK (
        token::sms_outbox.claim_token > 0 OR jobs::sms_outbox.checked_job IS DISTINCT FROM NULL);
COMMENT ON CONSTRAINT jobs_keep_the_rules ON sms_outbox.jobs IS
    'Holds every row that was not claimed yet to the rules of the domain sms_outbox.job_rules, and is never broken by this name, '
    'only by theirs.';

------------------------------------------------------------------------------------------------------ The indexes of jobs

-- Every insert looks at the condition of each of them, and every update of a job enters it anew in those that hold it: as few
-- as the statements need. None holds what has ended, except jobs_content, jobs_order, jobs_parts, jobs_batch and those of the two
-- constraints.

CREATE INDEX jobs_due ON sms_outbox.jobs (account, bulk, priority, producer, due_at, id)
    WHERE status = 'queued' AND held IS NULL;
COMMENT ON INDEX sms_outbox.jobs_due IS
    'The order of claims: single messages and bulk orders, each priority and each producer by itself; by id what is due at one '
    'moment, so that a claim can read on from where the last one was. claim/singles.sql, claim/bulk.sql, hold.sql, '
    'depth.sql, unexplained.sql, open_jobs.sql, waiting_to_uncertain.sql, and the functions queued_producers and queued_accounts.';

CREATE FUNCTION sms_outbox.queued_producers(p_account text)
RETURNS TABLE (bulk boolean, priority smallint, producer text)
LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH RECURSIVE level AS (
        SELECT bulk, priority::smallint
        FROM unnest(ARRAY[false, true]) AS bulk CROSS JOIN generate_series(0, 3) AS priority
    ), step AS (
        SELECT level.bulk, level.priority, first.producer
        FROM level CROSS JOIN LATERAL (
            SELECT job.producer FROM sms_outbox.jobs AS job
            WHERE job.account = p_account AND job.bulk = level.bulk AND job.priority = level.priority
              AND job.producer IS NOT NULL AND job.status = 'queued' AND job.held IS NULL
            ORDER BY job.producer
            LIMIT 1) AS first
        UNION ALL
        SELECT step.bulk, step.priority, next.producer
        FROM step CROSS JOIN LATERAL (
            SELECT job.producer FROM sms_outbox.jobs AS job
            WHERE job.account = p_account AND job.bulk = step.bulk AND job.priority = step.priority
              AND job.producer > step.producer AND job.status = 'queued' AND job.held IS NULL
            ORDER BY job.producer
            LIMIT 1) AS next
    )
    SELECT step.bulk, step.priority, step.producer FROM step;
END;
COMMENT ON FUNCTION sms_outbox.queued_producers(text) IS
    'Whose jobs wait in an account, due or not: a look at the index for each of them, however many jobs they have.';

CREATE FUNCTION sms_outbox.queued_accounts() RETURNS TABLE (account text)
LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH RECURSIVE step AS (
        (SELECT job.account FROM sms_outbox.jobs AS job
         WHERE job.status = 'queued' AND job.held IS NULL
         ORDER BY job.account
         LIMIT 1)
        UNION ALL
        SELECT next.account
        FROM step CROSS JOIN LATERAL (
            SELECT job.account FROM sms_outbox.jobs AS job
            WHERE job.status = 'queued' AND job.held IS NULL AND job.account > step.account
            ORDER BY job.account
            LIMIT 1) AS next
    )
    SELECT step.account FROM step;
END;
COMMENT ON FUNCTION sms_outbox.queued_accounts() IS
    'In which accounts jobs wait, due or not, that no pause holds: a look at the index for each.';

CREATE FUNCTION sms_outbox.held_senders() RETURNS TABLE (account text, held text, sender text)
LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH RECURSIVE step AS (
        (SELECT job.account, job.held, job.sender FROM sms_outbox.jobs AS job
         WHERE job.status = 'queued' AND job.held IS NOT NULL
         ORDER BY job.account, job.held, job.sender
         LIMIT 1)
        UNION ALL
        SELECT next.account, next.held, next.sender
        FROM step CROSS JOIN LATERAL (
            SELECT job.account, job.held, job.sender FROM sms_outbox.jobs AS job
            WHERE job.status = 'queued' AND job.held IS NOT NULL
              AND (job.account, job.held, job.sender) > (step.account, step.held, step.sender)
            ORDER BY job.account, job.held, job.sender
            LIMIT 1) AS next
    )
    SELECT step.account, step.held, step.sender FROM step;
END;
COMMENT ON FUNCTION sms_outbox.held_senders() IS
    'Whose jobs are held, and by a pause of which scope: a look at the index for each of them, however many jobs they have.';

CREATE INDEX jobs_held ON sms_outbox.jobs (account, held, sender) WHERE status = 'queued' AND held IS NOT NULL;
COMMENT ON INDEX sms_outbox.jobs_held IS
    'What a pause holds, to be released when it is over. release_held.sql, depth.sql, unexplained.sql, open_jobs.sql, '
    'waiting_to_uncertain.sql, and the function held_senders.';

CREATE INDEX jobs_expiry ON sms_outbox.jobs (expires_at) WHERE status = 'queued' AND expires_at IS NOT NULL;
COMMENT ON INDEX sms_outbox.jobs_expiry IS 'What waits past its expiry without being claimed. expire.sql, due_maintenance.sql.';

CREATE INDEX jobs_lease ON sms_outbox.jobs (lease_until) WHERE status = 'sending';
COMMENT ON INDEX sms_outbox.jobs_lease IS
    'Claims, and those whose lease has run out. abandoned.sql, depth.sql, open_jobs.sql, rivals.sql.';

CREATE UNIQUE INDEX jobs_one_bulk_order_at_a_time ON sms_outbox.jobs (account) WHERE status = 'sending' AND bulk;
COMMENT ON INDEX sms_outbox.jobs_one_bulk_order_at_a_time IS
    'Two workers that race for the one bulk order of an account cannot both win. claim/bulk.sql.';

CREATE INDEX jobs_indeterminate ON sms_outbox.jobs (status, account, due_at)
    WHERE ambiguous_since IS NOT NULL AND status IN ('queued', 'uncertain');
COMMENT ON INDEX sms_outbox.jobs_indeterminate IS
    'What may have been accepted and has to be repeated while the provider''s guard stands, looked up, or settled by a person: few '
    'rows among millions. claim/singles.sql, claim/bulk.sql, stale_to_uncertain.sql, due_maintenance.sql, depth.sql, is_being_reconciled.sql, '
    'begin_reconciliation.sql, rivals.sql, lost_by_content.sql.';

CREATE INDEX jobs_order_unknown ON sms_outbox.jobs (sent_at) WHERE status = 'sent' AND order_id IS NULL;
COMMENT ON INDEX sms_outbox.jobs_order_unknown IS
    'What was sent under an order that is not known. find_originals.sql, name_after_originals.sql, due_maintenance.sql, is_being_reconciled.sql, '
    'begin_reconciliation.sql, rivals.sql, lost_by_content.sql.';

CREATE INDEX jobs_content ON sms_outbox.jobs (content_key) WHERE content_key IS NOT NULL;
COMMENT ON INDEX sms_outbox.jobs_content IS
    'Which job is the original of this 451? The five-minute number leads, so that insertions stay on a few hot pages. '
    'record_other.sql, find_originals.sql.';

CREATE INDEX jobs_parts ON sms_outbox.jobs (part_of) WHERE part_of IS NOT NULL;
COMMENT ON INDEX sms_outbox.jobs_parts IS
    'The parts of a list that was refused because of numbers in it. family.sql, parts_of.sql, record_split.sql.';

CREATE INDEX jobs_order ON sms_outbox.jobs (order_id) WHERE order_id IS NOT NULL;
COMMENT ON INDEX sms_outbox.jobs_order IS
    'Whose order is this? It costs a recorded job 75 bytes of log and 1.2 microseconds of the server. known_orders.sql, '
    'resolve.sql, settle_found.sql, settle_by_webhook.sql, deliveries_of.sql.';

CREATE INDEX jobs_scheduled ON sms_outbox.jobs (account, provider_send_at, id)
    WHERE provider_send_at IS NOT NULL AND status = 'sent';
COMMENT ON INDEX sms_outbox.jobs_scheduled IS
    'Orders that the provider holds, or held, until their time. due_scheduled.sql, scheduled.sql.';

CREATE INDEX jobs_batch ON sms_outbox.jobs (batch_id) WHERE batch_id IS NOT NULL;
COMMENT ON INDEX sms_outbox.jobs_batch IS 'The jobs of a batch. The view batches.';

------------------------------------------------------------------------------------------------------------------ History

-- The accepting answer of the claim that held the job is read from the job itself, so that the common case writes no extra
-- row.
CREATE TABLE sms_outbox.attempt_log (
    id            bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    job_id        uuid        NOT NULL,
    token         integer     NOT NULL,
    observer      text        NOT NULL,
    attempt       smallint    NOT NULL,
    counted       boolean     NOT NULL,
    worker        text,
    started_at    timestamptz NOT NULL,
    recorded_at   timestamptz NOT NULL DEFAULT now(),
    duration_ms   integer,
    progress      text,
    http_status   smallint,
    provider_code integer,
    error_class   text,
    error_message text,
    order_id      text,
    late          boolean     NOT NULL DEFAULT false,
    said_by       text,
    evidence      text,
    CONSTRAINT attempt_log_pkey PRIMARY KEY (id),
    CONSTRAINT attempt_log_observer_known CHECK (observer IN ('worker', 'rescue', 'operator', 'reconciliation', 'webhook')),
    CONSTRAINT attempt_log_progress_known CHECK (progress IN ('not_sent', 'maybe_sent', 'answered'))
) WITH (autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000);
COMMENT ON TABLE sms_outbox.attempt_log IS
    'What was observed about requests, except the plain acceptances that jobs themselves hold. Only ever appended to, by '
    'workers, operators and reconciliation; read it through sms_outbox.attempts.';
COMMENT ON CONSTRAINT attempt_log_observer_known ON sms_outbox.attempt_log IS 'See the column observer.';
COMMENT ON CONSTRAINT attempt_log_progress_known ON sms_outbox.attempt_log IS 'See the column progress.';
COMMENT ON COLUMN sms_outbox.attempt_log.id IS 'Order of appending.';
COMMENT ON COLUMN sms_outbox.attempt_log.job_id IS 'The job.';
COMMENT ON COLUMN sms_outbox.attempt_log.token IS 'Which claim of the job made the request (jobs.token at that time).';
COMMENT ON COLUMN sms_outbox.attempt_log.observer IS
    'Who says so, and so how good the evidence is: the worker that made the request, the rescue of an abandoned claim, '
    'reconciliation with the provider''s reports, an event of the webhook that a report has confirmed, or an operator.';
COMMENT ON COLUMN sms_outbox.attempt_log.attempt IS 'Number of the attempt, from 1.';
COMMENT ON COLUMN sms_outbox.attempt_log.counted IS
    'Whether it was spent. False when the account was the cause of the failure and the attempt was released.';
COMMENT ON COLUMN sms_outbox.attempt_log.worker IS 'The worker that made the request.';
COMMENT ON COLUMN sms_outbox.attempt_log.started_at IS
    'When the job was claimed for it; for what reconciliation found, or a webhook or an operator said, when that was.';
COMMENT ON COLUMN sms_outbox.attempt_log.recorded_at IS 'When this row was written.';
COMMENT ON COLUMN sms_outbox.attempt_log.duration_ms IS 'Milliseconds the request took, where that was seen.';
COMMENT ON COLUMN sms_outbox.attempt_log.progress IS
    'How far the request got: not_sent (surely never left), maybe_sent (may have been accepted, no answer read), answered. '
    'Null for what an operator says.';
COMMENT ON COLUMN sms_outbox.attempt_log.http_status IS 'HTTP status of the answer, where there was one.';
COMMENT ON COLUMN sms_outbox.attempt_log.provider_code IS 'The code in the answer''s body, where it could be read.';
COMMENT ON COLUMN sms_outbox.attempt_log.error_class IS 'As in jobs.';
COMMENT ON COLUMN sms_outbox.attempt_log.error_message IS 'As in jobs.';
COMMENT ON COLUMN sms_outbox.attempt_log.order_id IS 'The order, where one was named.';
COMMENT ON COLUMN sms_outbox.attempt_log.late IS 'Whether it came after the claim had been lost.';
COMMENT ON COLUMN sms_outbox.attempt_log.said_by IS
    'Of an operator: the database role, and in front of it the name that was given with --by.';
COMMENT ON COLUMN sms_outbox.attempt_log.evidence IS
    'What it depends on where it is no answer: what was found in the reports, or what an operator decided and why.';

-- What an operator says is kept as often as it is said: a job that is resolved twice may not have been claimed in between.
CREATE UNIQUE INDEX attempt_log_once_per_observer
    ON sms_outbox.attempt_log (job_id, token, observer, (CASE WHEN observer = 'operator' THEN id ELSE 0 END));
COMMENT ON INDEX sms_outbox.attempt_log_once_per_observer IS
    'Recording may be repeated when its own answer was lost; the history stays single. Also the history of one job: '
    'attempts_of.sql.';

CREATE INDEX attempt_log_order ON sms_outbox.attempt_log (order_id) WHERE order_id IS NOT NULL;
COMMENT ON INDEX sms_outbox.attempt_log_order IS
    'Orders that were accepted beside the one on the job: few, and reconciliation must not take them for another job''s. '
    'known_orders.sql, resolve.sql, settle_found.sql, settle_by_webhook.sql.';

CREATE FUNCTION sms_outbox.refuse_to_edit_history() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'sms_outbox.attempt_log is only appended to' USING ERRCODE = 'integrity_constraint_violation';
END
$$;
COMMENT ON FUNCTION sms_outbox.refuse_to_edit_history() IS 'Refuses every UPDATE of sms_outbox.attempt_log.';
CREATE TRIGGER attempt_log_is_append_only BEFORE UPDATE ON sms_outbox.attempt_log
    FOR EACH STATEMENT EXECUTE FUNCTION sms_outbox.refuse_to_edit_history();

CREATE VIEW sms_outbox.attempts AS
SELECT job_id, attempt, token, observer, counted, late, worker, started_at, duration_ms, progress, http_status,
       provider_code, error_class, error_message, order_id, said_by, evidence
FROM sms_outbox.attempt_log
UNION ALL
SELECT id, attempt, token, 'worker', true, false, worker, claimed_at, answer_ms, 'answered', answer_http_status,
       CASE WHEN duplicate THEN 451 ELSE 200 END, NULL, NULL, CASE WHEN NOT duplicate THEN order_id END, NULL, NULL
FROM sms_outbox.jobs
WHERE status = 'sent' AND answer_ms IS NOT NULL;
COMMENT ON VIEW sms_outbox.attempts IS
    'One row for every request that left, or may have left, a worker, and for every word of an operator or of the provider''s '
    'reports about it: the whole history of every job. Columns as in attempt_log.';

----------------------------------------------------------------------------------------------------------------- Accounts

CREATE TABLE sms_outbox.accounts (
    account         text          NOT NULL,
    rate_per_second integer       NOT NULL DEFAULT 0,
    accepted_at     timestamptz,
    failed_at       timestamptz,
    failure_class   text,
    failure_message text,
    blames          integer       NOT NULL DEFAULT 0,
    outage_since    timestamptz,
    outage_by       text,
    outage_ended_at timestamptz,
    probe_at        timestamptz,
    probes          integer       NOT NULL DEFAULT 0,
    trial_at        timestamptz,
    trials          integer       NOT NULL DEFAULT 0,
    claimed_at      timestamptz[] NOT NULL DEFAULT '{}',
    claimed_due_at  timestamptz[] NOT NULL DEFAULT '{}',
    CONSTRAINT accounts_pkey PRIMARY KEY (account)
) WITH (fillfactor = 50);
COMMENT ON TABLE sms_outbox.accounts IS
    'How the provider does for each account, as the whole fleet knows it. Written by workers.';
COMMENT ON COLUMN sms_outbox.accounts.account IS 'The account.';
COMMENT ON COLUMN sms_outbox.accounts.rate_per_second IS
    'Recipients a second, for the whole fleet: the smallest limit that a live worker brings (sms_outbox.workers). 0: no limit.';
COMMENT ON COLUMN sms_outbox.accounts.accepted_at IS 'About when a message was accepted last: to the second.';
COMMENT ON COLUMN sms_outbox.accounts.failed_at IS 'When a request failed last for a cause that is no message''s.';
COMMENT ON COLUMN sms_outbox.accounts.failure_class IS 'What kind of failure that was, as in jobs.error_class.';
COMMENT ON COLUMN sms_outbox.accounts.failure_message IS 'A sentence about it, as in jobs.error_message.';
COMMENT ON COLUMN sms_outbox.accounts.blames IS
    'How many answers in a row have blamed the account, with nothing accepted in between.';
COMMENT ON COLUMN sms_outbox.accounts.outage_since IS
    'Since when the provider is unavailable: no new request leaves, only what may have been accepted is repeated. Null: it is not.';
COMMENT ON COLUMN sms_outbox.accounts.outage_by IS 'The worker that noticed it.';
COMMENT ON COLUMN sms_outbox.accounts.outage_ended_at IS 'When the last outage ended.';
COMMENT ON COLUMN sms_outbox.accounts.probe_at IS 'In an outage: when a worker asks for the balance next.';
COMMENT ON COLUMN sms_outbox.accounts.probes IS 'How often it was asked in this outage; spaces the probes.';
COMMENT ON COLUMN sms_outbox.accounts.trial_at IS
    'In an outage in which the balance can be asked: when a new message may be tried next.';
COMMENT ON COLUMN sms_outbox.accounts.trials IS 'How many were tried in this outage; spaces the trials.';
COMMENT ON COLUMN sms_outbox.accounts.claimed_at IS
    'When a job of each priority, 0 to 3, was claimed last: to the second.';
COMMENT ON COLUMN sms_outbox.accounts.claimed_due_at IS
    'When the last of those had been due: what was due later waits behind it. Tells what only waits from what is stuck.';

CREATE TABLE sms_outbox.workers (
    worker          text        NOT NULL,
    account         text        NOT NULL,
    rate_per_second integer     NOT NULL,
    seen_at         timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT workers_pkey PRIMARY KEY (account, worker)
) WITH (fillfactor = 50);
COMMENT ON TABLE sms_outbox.workers IS
    'Which workers serve an account, and the limit that each was given. One that was not seen for 15 s is gone. Written by workers.';
COMMENT ON COLUMN sms_outbox.workers.worker IS 'The worker, as in jobs.worker.';
COMMENT ON COLUMN sms_outbox.workers.account IS 'The account.';
COMMENT ON COLUMN sms_outbox.workers.rate_per_second IS 'Its SMS_OUTBOX_RATE_PER_SECOND; 0: no limit.';
COMMENT ON COLUMN sms_outbox.workers.seen_at IS 'When it said so last.';

------------------------------------------------------------------------------------------------------------------- Pauses

-- A row stays after its pause has ended, so that one that comes back soon is probed less often.
CREATE TABLE sms_outbox.pauses (
    account     text        NOT NULL,
    scope       text        NOT NULL,
    sender      text        NOT NULL DEFAULT '',
    error_class text,
    error_code  integer,
    reason      text        NOT NULL,
    paused_by   text        NOT NULL,
    since       timestamptz NOT NULL DEFAULT now(),
    until       timestamptz,
    probe_at    timestamptz,
    consecutive_failures integer NOT NULL DEFAULT 1,
    ended_at    timestamptz,
    ended_by    text,
    CONSTRAINT pauses_pkey PRIMARY KEY (account, scope, sender),
    CONSTRAINT pauses_scope_known CHECK (scope IN ('account', 'sender', 'iys')),
    CONSTRAINT pauses_sender_exactly_for_a_sender CHECK ((sender <> '') = (scope = 'sender'))
);
COMMENT ON TABLE sms_outbox.pauses IS
    'What is held back and why: one row per account, sender or account''s marketing. A pause is over when ended_at is set or until '
    'has passed. Written by workers and operators.';
COMMENT ON CONSTRAINT pauses_scope_known ON sms_outbox.pauses IS 'See the column scope.';
COMMENT ON CONSTRAINT pauses_sender_exactly_for_a_sender ON sms_outbox.pauses IS
    'A pause of a sender names the sender, and no other pause does.';
COMMENT ON COLUMN sms_outbox.pauses.account IS 'The account.';
COMMENT ON COLUMN sms_outbox.pauses.scope IS
    'account: every job; sender: the jobs of one sender; iys: the marketing jobs (iys = true).';
COMMENT ON COLUMN sms_outbox.pauses.sender IS 'The sender, for scope sender; empty otherwise.';
COMMENT ON COLUMN sms_outbox.pauses.error_class IS 'The failure behind it, as in jobs; null when an operator paused.';
COMMENT ON COLUMN sms_outbox.pauses.error_code IS 'The provider''s number for it, where there was one.';
COMMENT ON COLUMN sms_outbox.pauses.reason IS 'A sentence for the operator.';
COMMENT ON COLUMN sms_outbox.pauses.paused_by IS 'The worker that met the failure, or the operator.';
COMMENT ON COLUMN sms_outbox.pauses.since IS 'When it began.';
COMMENT ON COLUMN sms_outbox.pauses.until IS 'When it ends by itself; null: by a probe or by hand.';
COMMENT ON COLUMN sms_outbox.pauses.probe_at IS 'When a worker asks the provider next whether the failure is over; null: never.';
COMMENT ON COLUMN sms_outbox.pauses.consecutive_failures IS
    'How often in a row it began or was probed in vain; spaces the probes.';
COMMENT ON COLUMN sms_outbox.pauses.ended_at IS 'When it was ended; null while it holds.';
COMMENT ON COLUMN sms_outbox.pauses.ended_by IS 'Who ended it.';

------------------------------------------------------------------------------------------------------------- Refused rows

CREATE TABLE sms_outbox.refused_jobs (
    job_id     uuid        NOT NULL,
    account    text        NOT NULL,
    sqlstate   text        NOT NULL,
    rule       text,
    refusals   integer     NOT NULL DEFAULT 1,
    since      timestamptz NOT NULL DEFAULT now(),
    retry_at   timestamptz NOT NULL,
    CONSTRAINT refused_jobs_pkey PRIMARY KEY (job_id)
);
COMMENT ON TABLE sms_outbox.refused_jobs IS
    'Jobs whose row the database refuses to change (a rule or a trigger of the application, a value that does not fit): claims step '
    'over them until retry_at, and doctor names them. Written by workers.';
COMMENT ON COLUMN sms_outbox.refused_jobs.job_id IS 'The job.';
COMMENT ON COLUMN sms_outbox.refused_jobs.account IS 'The job''s account.';
COMMENT ON COLUMN sms_outbox.refused_jobs.sqlstate IS 'What kind of error it was (SQLSTATE). Its words may quote the row, and are not kept.';
COMMENT ON COLUMN sms_outbox.refused_jobs.rule IS 'The constraint that was broken, where there was one.';
COMMENT ON COLUMN sms_outbox.refused_jobs.refusals IS 'How often it was refused; spaces the tries.';
COMMENT ON COLUMN sms_outbox.refused_jobs.since IS 'When it was refused first.';
COMMENT ON COLUMN sms_outbox.refused_jobs.retry_at IS 'When it is tried next.';

CREATE INDEX refused_jobs_account ON sms_outbox.refused_jobs (account, retry_at);
COMMENT ON INDEX sms_outbox.refused_jobs_account IS 'Whether an account has any. claim/account.sql.';

-- Each row by itself, in a transaction of its own that is always rolled back: one refused row hides the others of a statement.
CREATE FUNCTION sms_outbox.refusals(p_ids uuid[]) RETURNS TABLE (job_id uuid, account text, code text, rule text)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_id uuid;
BEGIN
    FOREACH v_id IN ARRAY p_ids LOOP
        BEGIN
            PERFORM FROM sms_outbox.jobs AS job WHERE job.id = v_id FOR NO KEY UPDATE NOWAIT;
            UPDATE sms_outbox.jobs AS job
            SET status = 'sending', attempt = job.attempt + 1, token = job.token + 1, claimed_at = now(), lease_until = now(), worker = ''
            WHERE job.id = v_id AND job.status = 'queued';
            UPDATE sms_outbox.jobs AS job
            SET status = 'sent', sent_at = now(), finished_at = now(), lease_until = NULL
            WHERE job.id = v_id AND job.status = 'sending';
            RAISE EXCEPTION USING ERRCODE = 'SMS01';
        EXCEPTION
            WHEN SQLSTATE 'SMS01' OR lock_not_available OR unique_violation THEN
                NULL;
            WHEN OTHERS THEN
                job_id := v_id;
                SELECT job.account INTO refusals.account FROM sms_outbox.jobs AS job WHERE job.id = v_id;
                GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, rule = CONSTRAINT_NAME;
                rule := nullif(rule, '');
                RETURN NEXT;
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION sms_outbox.refusals(uuid[]) IS
    'Which of these jobs the database refuses to change as a worker would, and why. Changes nothing.';

---------------------------------------------------------------------------------------------------------------- The limit

CREATE TABLE sms_outbox.rate_limits (
    account   text      NOT NULL,
    first     bigint    NOT NULL,
    counts    integer[] NOT NULL DEFAULT '{}',
    last      bigint    NOT NULL DEFAULT 0,
    paced_to  bigint    NOT NULL DEFAULT 0,
    closed_to bigint    NOT NULL DEFAULT 0,
    bulk_at   timestamptz,
    CONSTRAINT rate_limits_pkey PRIMARY KEY (account)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE sms_outbox.rate_limits IS 'The limit that all workers of an account share. Written by reserve_slots.';
COMMENT ON COLUMN sms_outbox.rate_limits.account IS 'The account.';
COMMENT ON COLUMN sms_outbox.rate_limits.first IS 'Number of the 10 ms since 1970 that counts[1] stands for.';
COMMENT ON COLUMN sms_outbox.rate_limits.counts IS
    'Recipients that count in each 10 ms: those that may leave in it or did in the second before, and who was allowed to be late '
    'for as much longer.';
COMMENT ON COLUMN sms_outbox.rate_limits.last IS 'Number of the last 10 ms since 1970 that anything was reserved in.';
COMMENT ON COLUMN sms_outbox.rate_limits.paced_to IS
    'Microseconds since 1970 before which no further message above priority 0 gets a slot: spreads them evenly, so that an '
    'urgent one never meets a second that is already spent.';

COMMENT ON COLUMN sms_outbox.rate_limits.closed_to IS
    'Microseconds since 1970 before which nothing gets a slot, because an order of more recipients than the limit has left.';
COMMENT ON COLUMN sms_outbox.rate_limits.bulk_at IS
    'When the next bulk order may be claimed: those that the limit could carry in ten seconds are spread.';

CREATE FUNCTION sms_outbox.rate_per_second(p_account text, p_limit integer) RETURNS integer
LANGUAGE sql STABLE
RETURN least(
    nullif(greatest(p_limit, 0), 0),
    (SELECT nullif(known.rate_per_second, 0) FROM sms_outbox.accounts AS known WHERE known.account = p_account));
COMMENT ON FUNCTION sms_outbox.rate_per_second(text, integer) IS
    'The limit of an account in recipients a second: the smallest of what is asked for and what any live worker brings. Null: none.';

CREATE FUNCTION sms_outbox.reserve_slots(
    p_account text, p_limit integer, p_window integer, p_horizon integer, p_weights integer[], p_urgent boolean[])
RETURNS TABLE (place integer, wait_us integer)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_limit   integer := sms_outbox.rate_per_second(p_account, p_limit);
    v_now     bigint;      -- microseconds since 1970
    v_bucket  bigint;      -- the 10 ms we are in
    v_ring    sms_outbox.rate_limits;
    v_counts  integer[];   -- place 1 is the 10 ms we are in
    v_last    integer;     -- behind this place nothing begins to count any more
    v_weight  integer;
    v_room    integer;     -- what may count already where this one is put
    v_reach   integer;     -- the last place that may be reserved
    v_at      integer;
    v_place   integer;
    v_lost    integer := 2147483647;  -- the least weight for which no place was found
    v_any     boolean := false;
BEGIN
    IF v_limit IS NULL THEN
        RETURN QUERY SELECT n, 0 FROM generate_series(1, cardinality(p_weights)) AS n;
        RETURN;
    END IF;
    IF coalesce(cardinality(p_weights), 0) = 0 THEN
        RETURN;
    END IF;

    SELECT * INTO v_ring FROM sms_outbox.rate_limits WHERE account = p_account FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO sms_outbox.rate_limits (account, first) VALUES (p_account, 0) ON CONFLICT DO NOTHING;
        SELECT * INTO v_ring FROM sms_outbox.rate_limits WHERE account = p_account FOR UPDATE;
    END IF;

    -- Read after the lock: time spent waiting for it must not make slots look later than they are.
    v_now := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    v_bucket := v_now / 10000;
    IF v_ring.first > v_bucket THEN
        -- The clock was set back. What counts goes on counting for as long as it would have.
        v_ring.last := v_ring.last - (v_ring.first - v_bucket);
        v_ring.paced_to := least(v_ring.paced_to, v_now);
        v_ring.closed_to := v_ring.closed_to - (v_ring.first - v_bucket) * 10000;
        v_ring.first := v_bucket;
    END IF;
    v_counts := v_ring.counts[least(v_bucket - v_ring.first, cardinality(v_ring.counts))::integer + 1 :];
    IF cardinality(v_counts) < 2 * p_window + p_horizon THEN
        v_counts := v_counts || array_fill(0, ARRAY[2 * p_window + p_horizon - cardinality(v_counts)]);
    END IF;
    v_last := greatest(v_ring.last - v_bucket + 1, 1)::integer;

    FOR i IN 1 .. cardinality(p_weights) LOOP
        -- A job above the limit by itself waits for an empty second, and then nothing leaves until its recipients are paid for.
        v_weight := least(p_weights[i], v_limit);
        CONTINUE WHEN v_weight >= v_lost AND NOT p_urgent[i];
        v_room := v_limit - v_weight;
        v_reach := 1 + p_horizon;
        v_at := 1 + least(greatest(v_ring.closed_to / 10000 - v_bucket, 0), v_reach + p_window)::integer;
        IF NOT p_urgent[i] THEN
            v_at := greatest(v_at, 1 + least(greatest(v_ring.paced_to / 10000 - v_bucket, 0), v_reach)::integer);
            CONTINUE WHEN v_at > v_reach;
            IF v_weight > 1 THEN
                -- A second that many have filled to the brim would keep an urgent message waiting until several of them have
                -- passed. Single ones leave a place free every few milliseconds.
                v_room := greatest(v_room - v_limit / 100, 0);
            END IF;
        END IF;
        IF p_urgent[i] OR (v_weight > 1 AND v_last <= v_reach) THEN
            -- Needs a gap that single messages would fill for ever: one at a time reserves up to a window ahead. Others go
            -- before it as far as they leave room for it.
            v_reach := v_reach + p_window - 1;
        END IF;
        v_place := v_at;
        WHILE v_at <= v_reach AND v_place <= greatest(v_at, v_last) LOOP
            IF v_counts[v_place] > v_room THEN
                v_at := v_place + 1;
            END IF;
            v_place := v_place + 1;
        END LOOP;
        IF v_at > v_reach THEN
            v_lost := v_weight;
            CONTINUE;
        END IF;

        FOR n IN v_at .. v_at + p_window - 1 LOOP
            v_counts[n] := v_counts[n] + v_weight;
        END LOOP;
        v_last := greatest(v_last, v_at);
        v_any := true;
        place := i;
        wait_us := ((v_bucket + v_at - 1) * 10000 - v_now)::integer;
        RETURN NEXT;
        -- Several recipients seldom fit where the pace puts them. They may catch up with what they wait for that, up to a fifth
        -- of a window, or it would be lost for good; single ones with little, because what leaves in a burst leaves none for
        -- urgent messages when its second is over.
        v_ring.paced_to := greatest(
                v_ring.paced_to, (v_bucket + v_at - 1) * 10000 - least(v_weight, 5) * 400::bigint * p_window)
            + p_weights[i]::bigint * p_window * 10000 / v_limit;
        IF p_weights[i] > v_limit THEN
            v_ring.closed_to := (v_bucket + v_at - 1) * 10000 + p_weights[i]::bigint * p_window * 10000 / v_limit;
        END IF;
    END LOOP;

    IF v_any THEN
        UPDATE sms_outbox.rate_limits
        SET first = v_bucket, counts = v_counts, last = v_bucket + v_last - 1, paced_to = v_ring.paced_to,
            closed_to = v_ring.closed_to
        WHERE account = p_account;
    END IF;
END
$$;
COMMENT ON FUNCTION sms_outbox.reserve_slots(text, integer, integer, integer, integer[], boolean[]) IS
    'Reserves moments at which messages of the given weights (recipients) may leave, such that no p_window consecutive 10 ms '
    'hold more than p_limit recipients over all workers, or than the least that any of them believes. Returns, for those that fit before p_horizon further 10 ms have passed '
    '(urgent ones, and one of several recipients at a time: a window later), their place in the list and the microseconds until '
    'their 10 ms begin (negative: they have begun). Urgent ones skip the even pacing, never the limit.';

-------------------------------------------------------------------------------------------------------- Database identity

-- A restored backup, a promoted standby and a copy hold jobs that were sent elsewhere meanwhile, and look exactly like the
-- original; what tells them apart lies outside the tables.

CREATE FUNCTION sms_outbox.current_database_identity(
    OUT system_identifier text, OUT timeline integer, OUT database_oid bigint, OUT database_name text,
    OUT jobs_oid bigint)
LANGUAGE plpgsql AS $$
BEGIN
    SELECT database.oid::bigint, database.datname INTO database_oid, database_name
    FROM pg_catalog.pg_database AS database
    WHERE database.datname = pg_catalog.current_database();
    SELECT relation.oid::bigint INTO jobs_oid
    FROM pg_catalog.pg_class AS relation JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relation.relnamespace
    WHERE namespace.nspname = 'sms_outbox' AND relation.relname = 'jobs';
    -- Each by itself, and whatever the reason: where a managed service refuses one, the others still tell something.
    BEGIN
        SELECT control.system_identifier::text INTO system_identifier FROM pg_catalog.pg_control_system() AS control;
    EXCEPTION WHEN OTHERS THEN
        system_identifier := NULL;
    END;
    BEGIN
        -- The name of the file that is being written begins with the timeline, in hexadecimal digits. It is right as soon as a
        -- standby has been promoted; pg_control_checkpoint() is so only after the next checkpoint.
        IF NOT pg_catalog.pg_is_in_recovery() THEN
            timeline := ('x' || left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8))::bit(32)::integer;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        timeline := NULL;
    END;
END
$$;
COMMENT ON FUNCTION sms_outbox.current_database_identity() IS
    'What tells this database from its own copies and restored backups. Null: the server does not say.';

CREATE TABLE sms_outbox.database_identity (
    one               boolean     NOT NULL DEFAULT true,
    system_identifier text,
    timeline          integer,
    database_oid      bigint,
    database_name     text,
    jobs_oid          bigint      NOT NULL,
    promotions        text        NOT NULL DEFAULT 'stop',
    promotion_until   timestamptz,
    provider_url      text,
    pinned_at         timestamptz NOT NULL DEFAULT now(),
    pinned_by         text        NOT NULL,
    CONSTRAINT database_identity_pkey PRIMARY KEY (one),
    CONSTRAINT database_identity_is_one_row CHECK (one),
    CONSTRAINT database_identity_promotions_known CHECK (promotions IN ('stop', 'go_on'))
);
COMMENT ON TABLE sms_outbox.database_identity IS
    'The one database from which messages are sent. While sms_outbox.current_database_identity() differs, workers claim '
    'nothing: see sms-outbox resume --after-restore.';
COMMENT ON CONSTRAINT database_identity_is_one_row ON sms_outbox.database_identity IS 'There is one database to send from.';
COMMENT ON CONSTRAINT database_identity_promotions_known ON sms_outbox.database_identity IS 'See the column promotions.';
COMMENT ON COLUMN sms_outbox.database_identity.one IS 'Always true: there is one row.';
COMMENT ON COLUMN sms_outbox.database_identity.system_identifier IS
    'The server''s data directory, from its initdb on (pg_control_system). Another after a dump was restored elsewhere. Null: the '
    'server did not say. Written by migrate, by the first worker, and by resume --after-restore.';
COMMENT ON COLUMN sms_outbox.database_identity.timeline IS
    'How often the server''s history has branched, from 1: another after a promotion or a point-in-time recovery. Null: the '
    'server did not say. Written as system_identifier.';
COMMENT ON COLUMN sms_outbox.database_identity.database_oid IS
    'The database in the server (pg_database.oid): another after a copy (CREATE DATABASE … TEMPLATE) or a dump that was restored '
    'into a new database; the same after a renaming. Null: no worker has been here yet, and a template for new databases may '
    'be copied. Written by the first worker, and by resume --after-restore.';
COMMENT ON COLUMN sms_outbox.database_identity.database_name IS
    'What the database was called then; only for people. Written as database_oid.';
COMMENT ON COLUMN sms_outbox.database_identity.jobs_oid IS
    'The table sms_outbox.jobs in the database (pg_class.oid): another after a dump was restored over it (pg_restore --clean). '
    'Written as system_identifier.';
COMMENT ON COLUMN sms_outbox.database_identity.promotions IS
    'Whether another timeline alone makes workers stop (stop) or not (go_on: replication is synchronous, so that a promoted '
    'standby has forgotten nothing). Written by resume --after-restore --promotions.';
COMMENT ON COLUMN sms_outbox.database_identity.promotion_until IS
    'Until then one promotion is meant: the first worker that meets a later timeline writes it down as the pinned one, and clears '
    'this. Null: none is. Written by resume --before-promotion.';
COMMENT ON COLUMN sms_outbox.database_identity.provider_url IS
    'Scheme, host and port of the provider that the queue is for: a worker with another one claims nothing. Null: no worker has '
    'been here yet. Written by the first worker, and by resume --provider.';
COMMENT ON COLUMN sms_outbox.database_identity.pinned_at IS 'When this row was written. Written as system_identifier.';
COMMENT ON COLUMN sms_outbox.database_identity.pinned_by IS 'migrate, a worker, or an operator. Written as system_identifier.';

INSERT INTO sms_outbox.database_identity (system_identifier, timeline, jobs_oid, pinned_by)
SELECT system_identifier, timeline, jobs_oid, 'migrate' FROM sms_outbox.current_database_identity();

----------------------------------------------------------------------------------------------------------- Reconciliation

-- Apart from the jobs, so that it costs nothing where nothing was lost.
CREATE TABLE sms_outbox.reconciliation_tasks (
    -- No foreign key: every update of every job would be looked at for it.
    job_id      uuid        NOT NULL,
    token       integer     NOT NULL,
    account     text        NOT NULL,
    begun_at    timestamptz NOT NULL DEFAULT now(),
    next_at     timestamptz DEFAULT now(),
    scans       integer     NOT NULL DEFAULT 0,
    clean_scans integer     NOT NULL DEFAULT 0,
    outcome     text,
    candidates  jsonb       NOT NULL DEFAULT '[]',
    note        text,
    CONSTRAINT reconciliation_tasks_pkey PRIMARY KEY (job_id),
    CONSTRAINT reconciliation_tasks_outcome_known CHECK (outcome IN ('found', 'none', 'candidate', 'several')),
    CONSTRAINT reconciliation_tasks_over_exactly_with_an_outcome CHECK ((next_at IS NULL) = (outcome IS NOT NULL))
);
COMMENT ON TABLE sms_outbox.reconciliation_tasks IS
    'Looking for a job''s order in the provider''s reports: for jobs that are uncertain, or sent without an order id. '
    'Written by the one worker that reconciles the account.';
COMMENT ON CONSTRAINT reconciliation_tasks_outcome_known ON sms_outbox.reconciliation_tasks IS 'See the column outcome.';
COMMENT ON CONSTRAINT reconciliation_tasks_over_exactly_with_an_outcome ON sms_outbox.reconciliation_tasks IS
    'What is over has an outcome and no next time, and what goes on has a next time and no outcome.';
COMMENT ON COLUMN sms_outbox.reconciliation_tasks.job_id IS 'The job.';
COMMENT ON COLUMN sms_outbox.reconciliation_tasks.token IS
    'jobs.token when it began: a job that was sent again is looked for again.';
COMMENT ON COLUMN sms_outbox.reconciliation_tasks.account IS 'The job''s account.';
COMMENT ON COLUMN sms_outbox.reconciliation_tasks.begun_at IS 'When it began.';
COMMENT ON COLUMN sms_outbox.reconciliation_tasks.next_at IS 'When the reports are read next; null when it is over.';
COMMENT ON COLUMN sms_outbox.reconciliation_tasks.scans IS 'How often all reports of the time in question were read.';
COMMENT ON COLUMN sms_outbox.reconciliation_tasks.clean_scans IS
    'How many of them, in a row, were read to their end and held nothing that fits.';
COMMENT ON COLUMN sms_outbox.reconciliation_tasks.outcome IS
    'found (exactly one order fits; its id is on the job), none (nothing after the settling time and two clean scans), candidate '
    '(one fits, and may be somebody else''s: a person has to tell), several (a person has to tell which); null while it goes on.';
COMMENT ON COLUMN sms_outbox.reconciliation_tasks.candidates IS
    'The orders that fit, as a JSON array of objects: order_id, submitted_at, total, status.';
COMMENT ON COLUMN sms_outbox.reconciliation_tasks.note IS 'A sentence for the operator about the last scan.';

CREATE INDEX reconciliation_tasks_due ON sms_outbox.reconciliation_tasks (account, next_at) WHERE next_at IS NOT NULL;
COMMENT ON INDEX sms_outbox.reconciliation_tasks_due IS
    'What is to be looked for next. due_reconciliation.sql, end_reconciliation.sql, is_being_reconciled.sql.';

-------------------------------------------------------------------------------------------------------------- Deliveries

-- Written when the first final word comes, so that a plain message costs one narrow row, and jobs are not touched again.
CREATE TABLE sms_outbox.deliveries (
    job_id        uuid        NOT NULL,
    first_news_at timestamptz NOT NULL DEFAULT now(),
    changed_at    timestamptz NOT NULL DEFAULT now(),
    finished_at   timestamptz,
    total         integer     NOT NULL,
    delivered     integer     NOT NULL,
    undelivered   integer     NOT NULL,
    conflicts     integer     NOT NULL DEFAULT 0,
    writes        integer     NOT NULL DEFAULT 1,
    facts         smallint    NOT NULL,
    account       text        NOT NULL,
    status        text        NOT NULL,
    source        text        NOT NULL,
    price         numeric(14,4),
    places        text,
    CONSTRAINT deliveries_pkey PRIMARY KEY (job_id),
    CONSTRAINT deliveries_status_known CHECK (
        status IN ('pending', 'delivered', 'partly', 'undelivered', 'refused', 'cancelled', 'unknown')),
    CONSTRAINT deliveries_source_known CHECK (source IN ('webhook', 'list', 'report', 'operator', 'horizon'))
) WITH (
    fillfactor = 90, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000
);
COMMENT ON TABLE sms_outbox.deliveries IS
    'What became of sent jobs on the way to the phone: one row at most for each, none while nothing is known. Written by workers and '
    'receivers. For people: sms_outbox.messages, sms_outbox.recipients.';
COMMENT ON CONSTRAINT deliveries_status_known ON sms_outbox.deliveries IS 'See the column status.';
COMMENT ON CONSTRAINT deliveries_source_known ON sms_outbox.deliveries IS 'See the column source.';
COMMENT ON COLUMN sms_outbox.deliveries.job_id IS 'The job.';
COMMENT ON COLUMN sms_outbox.deliveries.first_news_at IS 'When the first word came that is kept.';
COMMENT ON COLUMN sms_outbox.deliveries.changed_at IS 'When the row was changed last.';
COMMENT ON COLUMN sms_outbox.deliveries.finished_at IS 'When the status became final; null while it is not.';
COMMENT ON COLUMN sms_outbox.deliveries.total IS 'How many numbers the message was sent to.';
COMMENT ON COLUMN sms_outbox.deliveries.delivered IS 'How many of them have it.';
COMMENT ON COLUMN sms_outbox.deliveries.undelivered IS
    'How many of them will not have it: the provider says so, or its complete report does not name them.';
COMMENT ON COLUMN sms_outbox.deliveries.conflicts IS 'Of how many numbers both was said.';
COMMENT ON COLUMN sms_outbox.deliveries.writes IS
    'How often the row was written: whoever writes proves that it has read the latest.';
COMMENT ON COLUMN sms_outbox.deliveries.facts IS
    'The set of all that was said, as bits. Of the number of a job that has one: 1 undelivered and 2 delivered by a webhook, 4 and 8 '
    'the same by a report. Of the order: 16 in a list, 32 in a report, 64 complete, 128 refused, 256 cancelled, 512 overdue. The other '
    'columns follow from it (src/delivery.rs).';
COMMENT ON COLUMN sms_outbox.deliveries.account IS 'The job''s account.';
COMMENT ON COLUMN sms_outbox.deliveries.status IS
    'pending, delivered, partly, undelivered, refused (accepted, then not dispatched), cancelled (by us, at the provider) or unknown '
    '(nothing final within the horizon). Pending and unknown are not final.';
COMMENT ON COLUMN sms_outbox.deliveries.source IS
    'The best witness: report (get-report), list (get-reports), webhook, operator (a cancelled order) or horizon (nobody).';
COMMENT ON COLUMN sms_outbox.deliveries.price IS
    'What the provider''s report says that the order cost, in the unit of the account: credits or liras. Of a job whose order is '
    'shared with others, the whole.';
COMMENT ON COLUMN sms_outbox.deliveries.places IS
    'Of a job with several numbers, a base-32 digit for each of jobs.recipients, in their order: the four bits of a number as in '
    'facts, and 16 where the number stands at an earlier place; - where it was left out. Null for a job with one, however often it was '
    'written.';

-- The same ranks as in src/delivery.rs, for whoever reads in SQL. One expression, so that it is inlined.
CREATE FUNCTION sms_outbox.number_delivery(facts smallint, said integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN facts IS NULL THEN NULL
    WHEN said < 0 THEN 'rejected'
    WHEN said & 8 <> 0 THEN 'delivered'
    WHEN said & 4 <> 0 OR facts & 448 <> 0 THEN 'undelivered'
    WHEN said & 2 <> 0 THEN 'delivered'
    WHEN said & 1 <> 0 THEN 'undelivered'
    WHEN facts & 512 = 0 THEN 'pending'
END;
COMMENT ON FUNCTION sms_outbox.number_delivery(smallint, integer) IS
    'What deliveries.facts and the digit of one place of deliveries.places (of a job with one recipient: facts again; negative: left '
    'out) say of a number: delivered, undelivered, pending, rejected, or null.';

CREATE FUNCTION sms_outbox.recipients(job uuid) RETURNS TABLE (n integer, number text, delivery text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = '' AS $$
#variable_conflict use_column
DECLARE
    v_job sms_outbox.jobs;
BEGIN
    SELECT * INTO v_job FROM sms_outbox.jobs AS known
    WHERE known.id = recipients.job
      AND (known.producer = session_user OR has_column_privilege(session_user, 'sms_outbox.jobs', 'recipients', 'SELECT'));
    IF NOT FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY
    WITH written AS MATERIALIZED (
        SELECT entry.n::integer AS n, entry.number AS spelling,
               CASE WHEN entry.number ~ '^905[0-9]{9}$' THEN entry.number
                    ELSE coalesce(sms_outbox.normalize_number(entry.number, true), entry.number) END AS number
        FROM unnest(v_job.recipients) WITH ORDINALITY AS entry (number, n)
    ), told AS (
        SELECT place.n::integer AS n,
               sms_outbox.number_delivery(known.facts, strpos('0123456789abcdefghijklmnopqrstuv', place.digit) - 1) AS delivery
        FROM sms_outbox.deliveries AS known
        CROSS JOIN LATERAL string_to_table(known.places, NULL) WITH ORDINALITY AS place (digit, n)
        WHERE known.job_id = v_job.id
        UNION ALL
        -- One number, however often it was written.
        SELECT written.n, sms_outbox.number_delivery(known.facts, known.facts::integer)
        FROM sms_outbox.deliveries AS known CROSS JOIN written
        WHERE known.job_id = v_job.id AND known.places IS NULL
    ), parts AS (
        -- Numbers of parts are in their one spelling.
        SELECT entry.number,
               sms_outbox.number_delivery(
                   known.facts,
                   CASE WHEN known.places IS NULL THEN known.facts
                        ELSE strpos('0123456789abcdefghijklmnopqrstuv', substr(known.places, entry.n::integer, 1)) - 1
                   END) AS delivery
        FROM sms_outbox.jobs AS part
        CROSS JOIN LATERAL unnest(part.recipients) WITH ORDINALITY AS entry (number, n)
        LEFT JOIN sms_outbox.deliveries AS known ON known.job_id = part.id
        WHERE v_job.status = 'split' AND part.part_of = v_job.id AND part.part_of IS NOT NULL AND part.status <> 'split'
    ), left_out AS (
        SELECT DISTINCT entry.number FROM unnest(v_job.rejected_recipients) AS entry (number)
    )
    SELECT written.n, written.number,
           CASE WHEN as_written.number IS NOT NULL OR as_read.number IS NOT NULL THEN 'rejected'
                ELSE coalesce(told.delivery, parts.delivery) END
    FROM written
    LEFT JOIN left_out AS as_written ON as_written.number = written.spelling
    LEFT JOIN left_out AS as_read ON as_read.number = written.number
    LEFT JOIN told ON told.n = written.n
    LEFT JOIN parts ON parts.number = written.number
    ORDER BY written.n;
END
$$;
COMMENT ON FUNCTION sms_outbox.recipients(uuid) IS
    'Each number of a job, in the order in which they were written, and what became of the message there: delivered, undelivered, '
    'pending, rejected (left out before sending), or null (no word yet). A producer sees those of its own jobs, and nobody else '
    'those that it may not read in sms_outbox.jobs.';

-- One row for each statement that finishes jobs, or writes their deliveries, and not for each job: 16 bytes and their share of a row.
CREATE TABLE sms_outbox.change_log (
    xid     xid8        NOT NULL DEFAULT pg_current_xact_id(),
    id      bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    at      timestamptz NOT NULL DEFAULT now(),
    account text        NOT NULL,
    jobs    uuid[]      NOT NULL,
    CONSTRAINT change_log_pkey PRIMARY KEY (xid, id)
) WITH (autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000);
COMMENT ON TABLE sms_outbox.change_log IS
    'Which jobs have reached another end, or have news of their delivery, in the order in which that was committed. Only ever appended '
    'to. For applications: sms_outbox.changes.';
COMMENT ON COLUMN sms_outbox.change_log.xid IS
    'The transaction. What is older than every transaction that still runs has nothing in front of it that could yet appear.';
COMMENT ON COLUMN sms_outbox.change_log.id IS 'Order within the transaction.';
COMMENT ON COLUMN sms_outbox.change_log.at IS 'When the transaction began.';
COMMENT ON COLUMN sms_outbox.change_log.account IS 'The account of these jobs.';
COMMENT ON COLUMN sms_outbox.change_log.jobs IS 'The jobs.';

CREATE TABLE sms_outbox.delivery_inbox (
    id          bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    account     text        NOT NULL,
    order_id    text        NOT NULL,
    numbers     text[]      NOT NULL,
    words       text        NOT NULL,
    contents    bigint[]    NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    next_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT delivery_inbox_pkey PRIMARY KEY (id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
COMMENT ON TABLE sms_outbox.delivery_inbox IS
    'Events of webhooks that a receiver could not match by itself: their order is not known (yet), has several numbers, or does not '
    'fit. Workers take them from here, after 24 h unread. No text is ever in it.';
COMMENT ON COLUMN sms_outbox.delivery_inbox.id IS 'Order of appending.';
COMMENT ON COLUMN sms_outbox.delivery_inbox.account IS 'The account whose address was called.';
COMMENT ON COLUMN sms_outbox.delivery_inbox.order_id IS 'The order that they name (packet_id).';
COMMENT ON COLUMN sms_outbox.delivery_inbox.numbers IS 'The numbers that they name, in their one spelling.';
COMMENT ON COLUMN sms_outbox.delivery_inbox.words IS
    'A character for each number: a accepted, d delivered, u undelivered.';
COMMENT ON COLUMN sms_outbox.delivery_inbox.contents IS
    'For each number the hash of account, number and text, as in the low 40 bits of jobs.content_key.';
COMMENT ON COLUMN sms_outbox.delivery_inbox.received_at IS 'When they came.';
COMMENT ON COLUMN sms_outbox.delivery_inbox.next_at IS 'When a worker looks at them next.';

CREATE INDEX delivery_inbox_due ON sms_outbox.delivery_inbox (account, next_at);
COMMENT ON INDEX sms_outbox.delivery_inbox_due IS 'What is to be matched next. due_events.sql.';

-- The schedule has no row and no index for what waits: a few cursors walk through change_log behind one another.
CREATE TABLE sms_outbox.delivery_checks (
    account      text        NOT NULL,
    step         smallint    NOT NULL,
    xid          xid8        NOT NULL,
    id           bigint      NOT NULL,
    place        bigint      NOT NULL,
    scheduled_to timestamptz NOT NULL,
    scheduled_id uuid        NOT NULL,
    CONSTRAINT delivery_checks_pkey PRIMARY KEY (account, step)
) WITH (fillfactor = 50);
COMMENT ON TABLE sms_outbox.delivery_checks IS
    'How far the schedule of questions about deliveries has come. Written by the worker that asks for the account.';
COMMENT ON COLUMN sms_outbox.delivery_checks.account IS 'The account.';
COMMENT ON COLUMN sms_outbox.delivery_checks.step IS 'Which step of the schedule, from 0.';
COMMENT ON COLUMN sms_outbox.delivery_checks.xid IS 'The last entry of change_log that was looked at in this step: its xid.';
COMMENT ON COLUMN sms_outbox.delivery_checks.id IS 'And its id.';
COMMENT ON COLUMN sms_outbox.delivery_checks.place IS 'And the place among its jobs.';
COMMENT ON COLUMN sms_outbox.delivery_checks.scheduled_to IS
    'The provider_send_at up to which orders that the provider holds until then were looked at in this step.';
COMMENT ON COLUMN sms_outbox.delivery_checks.scheduled_id IS 'And the job.';

CREATE VIEW sms_outbox.messages AS
SELECT job.id, job.account, job.idempotency_key, job.batch_id, job.sender, job.priority, job.iys,
       cardinality(job.recipients) AS recipients, coalesce(cardinality(job.rejected_recipients), 0) AS rejected,
       CASE WHEN job.status = 'split' THEN whole.status ELSE job.status END AS status,
       job.attempt, job.order_id, job.duplicate, job.error_class, job.error_code, job.error_message,
       CASE WHEN job.status = 'split' THEN whole.delivery ELSE known.status END AS delivery,
       CASE WHEN job.status = 'split' THEN whole.delivered ELSE known.delivered END AS delivered,
       CASE WHEN job.status = 'split' THEN whole.undelivered ELSE known.undelivered END AS undelivered,
       CASE WHEN job.status = 'split' THEN whole.total ELSE known.total END AS total,
       CASE WHEN job.status = 'split' THEN CASE WHEN whole.delivery IN ('delivered', 'partly') THEN whole.decided_at END
            WHEN known.status IN ('delivered', 'partly') THEN known.finished_at END AS delivered_at,
       CASE WHEN job.status = 'split' THEN whole.price ELSE known.price END AS price,
       CASE WHEN job.status = 'split' THEN whole.source ELSE known.source END AS source,
       CASE WHEN job.status = 'split' THEN whole.conflicts ELSE known.conflicts END AS conflicts,
       job.created_at, job.due_at, job.expires_at, job.provider_send_at,
       CASE WHEN job.status = 'split' THEN whole.sent_at ELSE job.sent_at END AS sent_at,
       CASE WHEN job.status = 'split' THEN whole.finished_at ELSE job.finished_at END AS finished_at,
       CASE WHEN job.status = 'split' THEN whole.changed_at ELSE known.changed_at END AS delivery_changed_at
FROM sms_outbox.jobs AS job
LEFT JOIN sms_outbox.deliveries AS known ON known.job_id = job.id
CROSS JOIN LATERAL (
    SELECT CASE WHEN bool_or(part.status = 'queued') THEN 'queued'
                WHEN bool_or(part.status = 'sending') THEN 'sending'
                WHEN bool_or(part.status = 'uncertain') THEN 'uncertain'
                WHEN bool_or(part.status = 'sent') THEN 'sent'
                WHEN bool_or(part.status = 'expired') THEN 'expired'
                WHEN bool_or(part.status = 'cancelled') THEN 'cancelled'
                ELSE 'failed' END AS status,
           CASE WHEN count(told.job_id) = 0 THEN NULL
                -- What is not sent yet may still arrive.
                WHEN bool_or(part.status IN ('queued', 'sending')
                             OR (part.status = 'sent' AND coalesce(told.status, 'pending') = 'pending')) THEN 'pending'
                WHEN bool_or(part.status = 'uncertain' OR told.status = 'unknown') THEN 'unknown'
                -- Numbers that are refused are left out, as in a list that was not cut; what ended otherwise was meant to arrive.
                WHEN sum(told.delivered) > 0
                    THEN CASE WHEN sum(told.undelivered) > 0
                                   OR bool_or(part.status <> 'sent' AND part.error_class IS DISTINCT FROM 'recipients')
                              THEN 'partly' ELSE 'delivered' END
                WHEN bool_and(told.status = 'cancelled') THEN 'cancelled'
                WHEN bool_and(told.status = 'refused') THEN 'refused'
                ELSE 'undelivered' END AS delivery,
           sum(told.delivered)::integer AS delivered, sum(told.undelivered)::integer AS undelivered,
           CASE WHEN count(told.job_id) > 0
                THEN (sum(coalesce(told.total, cardinality(part.recipients))) FILTER (WHERE part.status = 'sent'))::integer
           END AS total,
           sum(told.price) AS price,
           sum(told.conflicts)::integer AS conflicts, min(told.source) AS source,
           min(part.sent_at) AS sent_at, max(told.changed_at) AS changed_at, max(told.finished_at) AS decided_at,
           CASE WHEN bool_and(part.finished_at IS NOT NULL) THEN max(part.finished_at) END AS finished_at
    FROM sms_outbox.jobs AS part
    LEFT JOIN sms_outbox.deliveries AS told ON told.job_id = part.id
    WHERE job.status = 'split' AND part.part_of = job.id AND part.part_of IS NOT NULL AND part.status <> 'split'
) AS whole
WHERE job.part_of IS NULL;
COMMENT ON VIEW sms_outbox.messages IS
    'One row per job that a producer wrote, with what became of it on the phone; one that was split is put together from its parts. '
    'It holds no number and no text.';

CREATE VIEW sms_outbox.batches AS
SELECT batch_id, account, count(*) AS jobs,
       count(*) FILTER (WHERE status = 'queued') AS jobs_queued,
       count(*) FILTER (WHERE status = 'sending') AS jobs_sending,
       count(*) FILTER (WHERE status = 'sent') AS jobs_sent,
       count(*) FILTER (WHERE status = 'failed') AS jobs_failed,
       count(*) FILTER (WHERE status = 'uncertain') AS jobs_uncertain,
       count(*) FILTER (WHERE status = 'expired') AS jobs_expired,
       count(*) FILTER (WHERE status = 'cancelled') AS jobs_cancelled,
       sum(recipients) AS recipients,
       coalesce(sum(recipients) FILTER (WHERE status IN ('queued', 'sending')), 0) AS recipients_waiting,
       coalesce(sum(recipients - rejected) FILTER (WHERE status = 'sent'), 0) AS recipients_sent,
       sum(rejected) AS recipients_rejected,
       coalesce(sum(delivered), 0) AS delivered,
       coalesce(sum(undelivered), 0) AS undelivered,
       -- A number that stands in a list twice is sent to once.
       coalesce(sum(coalesce(total, recipients - rejected) - coalesce(delivered, 0) - coalesce(undelivered, 0))
                    FILTER (WHERE status = 'sent'), 0) AS undecided,
       sum(price) AS price,
       min(created_at) AS first_at,
       max(greatest(created_at, sent_at, finished_at, delivery_changed_at)) AS last_at
FROM sms_outbox.messages
WHERE batch_id IS NOT NULL
GROUP BY batch_id, account;
COMMENT ON VIEW sms_outbox.batches IS
    'One row per list that enqueue_bulk cut: its jobs and its recipients by status, what became of the messages on the phones, the '
    'price so far, its first and its last moment.';

CREATE FUNCTION sms_outbox.changes(after text, at_most integer DEFAULT 100)
RETURNS TABLE (job_id uuid, idempotency_key text, status text, delivery text, order_id text, next_cursor text)
LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH cursor AS MATERIALIZED (
        -- A cursor of another server, which had counted its transactions further, says nothing here: then all is told again.
        SELECT CASE WHEN own THEN given.xid ELSE '0'::xid8 END AS xid, CASE WHEN own THEN given.id ELSE 0 END AS id,
               CASE WHEN own THEN given.place ELSE 0 END AS place
        -- By way of a number: xid8 takes any text for 0 before PostgreSQL 16, and would begin at the beginning.
        FROM (
            SELECT coalesce(nullif(split_part(after, '-', 1), ''), '0')::numeric::text::xid8 AS xid,
                   coalesce(nullif(split_part(after, '-', 2), ''), '0')::bigint AS id,
                   coalesce(nullif(split_part(after, '-', 3), ''), '0')::bigint AS place) AS given
        CROSS JOIN LATERAL (SELECT given.xid <= pg_snapshot_xmax(pg_current_snapshot()) AS own) AS server
    ), entry AS (
        SELECT log.xid, log.id, job.place, job.id AS job_id
        FROM sms_outbox.change_log AS log
        CROSS JOIN LATERAL unnest(log.jobs) WITH ORDINALITY AS job (id, place)
        WHERE (log.xid, log.id) >= ((SELECT xid FROM cursor), (SELECT id FROM cursor))
          -- What a transaction that still runs may yet put in front of it is not passed by.
          AND log.xid < pg_snapshot_xmin(pg_current_snapshot())
          AND (log.xid, log.id, job.place) > ((SELECT xid FROM cursor), (SELECT id FROM cursor), (SELECT place FROM cursor))
        ORDER BY log.xid, log.id, job.place
        LIMIT changes.at_most
    )
    SELECT whole.id, message.idempotency_key, message.status, message.delivery, message.order_id,
           entry.xid::text || '-' || entry.id || '-' || entry.place
    FROM entry
    -- One by one: a guess at how many there are must not make a join read the whole table.
    CROSS JOIN LATERAL (
        SELECT coalesce((SELECT job.part_of FROM sms_outbox.jobs AS job WHERE job.id = entry.job_id), entry.job_id) AS id
        OFFSET 0) AS whole
    LEFT JOIN LATERAL (SELECT * FROM sms_outbox.messages AS found WHERE found.id = whole.id LIMIT 1) AS message ON true
    ORDER BY entry.xid, entry.id, entry.place;
END;
COMMENT ON FUNCTION sms_outbox.changes(text, integer) IS
    'What has changed behind a cursor, in the order in which it was committed: jobs that reached another end, and news of their delivery, '
    'as they stand now, with the cursor to go on from. An empty cursor begins at the beginning. Nothing is skipped because a '
    'transaction committed late: while one that writes is open, what came after its beginning waits. A job that was deleted since '
    'has no status.';

-------------------------------------------------------------------------------------------------------------- Maintenance

CREATE TABLE sms_outbox.maintenance_leases (
    task   text        NOT NULL,
    worker text        NOT NULL,
    until  timestamptz NOT NULL,
    CONSTRAINT maintenance_leases_pkey PRIMARY KEY (task)
);
COMMENT ON TABLE sms_outbox.maintenance_leases IS 'What only one worker of the fleet does at a time. Written by workers.';
COMMENT ON COLUMN sms_outbox.maintenance_leases.task IS 'What: reports/ and the account whose reports are read.';
COMMENT ON COLUMN sms_outbox.maintenance_leases.worker IS 'Who.';
COMMENT ON COLUMN sms_outbox.maintenance_leases.until IS 'Until when it is theirs, unless they renew it.';

------------------------------------------------------------------------------------------------------------------ Numbers

-- Not one expression: a plain spelling is answered by the first line, and pays for no other.
CREATE FUNCTION sms_outbox.normalize_number(number text, international boolean DEFAULT false) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog AS $$
DECLARE
    around CONSTANT text := E' \n".-/()';
    spelling text;
    has_plus boolean;
    abroad boolean;
    bare text;
    digits text;
BEGIN
    IF number ~ '^(\+?90|0)?5[0-9]{9}$' THEN
        RETURN '90' || right(number, 10);
    ELSIF char_length(number) > 64 THEN
        RETURN NULL;
    END IF;
    -- Each character as the simplest of its kind; what cannot be seen is left out.
    spelling := translate(
        number,
        E'\uFE62\uFF0B\uFE59\uFF08\uFE5A\uFF09\uFE52\uFF0E\uFF0F\uFF1A'
        '\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uFE58\uFE63\uFF0D\t\u000B\f\r\u0085\u2028\u2029'
        '''`<>[]{},;=\u00B4\u00AB\u00BB\u2018\u2019\u201A\u201B\u201C\u201D\u201E\u201F\u2039\u203A\uFF02\uFF07\uFF1D'
        '\u00A0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200A\u202F\u205F\u3000'
        '\u00AD\u061C\u180E\u200B\u200C\u200D\u200E\u200F\u202A\u202B\u202C\u202D\u202E\u2060\u2061'
        '\u2062\u2063\u2064\u2066\u2067\u2068\u2069\u20E3\uFE0E\uFE0F\uFEFF',
        '++(())../:' || repeat('-', 10) || repeat(E'\n', 7) || repeat('"', 27) || repeat(' ', 16));
    IF spelling ~ '[^\u0001-\u007F]' THEN
        -- Digits of other scripts, by their zeros (Unicode 14, category Nd).
        spelling := (
            SELECT string_agg(CASE WHEN ascii(c) - zero BETWEEN 0 AND 9 THEN chr(48 + ascii(c) - zero) ELSE c END, '' ORDER BY n)
            FROM string_to_table(spelling, NULL) WITH ORDINALITY AS each_character (c, n)
            CROSS JOIN (VALUES (ARRAY[
                1632, 1776, 1984, 2406, 2534, 2662, 2790, 2918, 3046, 3174, 3302, 3430, 3558,
                3664, 3792, 3872, 4160, 4240, 6112, 6160, 6470, 6608, 6784, 6800, 6992, 7088,
                7232, 7248, 42528, 43216, 43264, 43472, 43504, 43600, 44016, 65296, 66720,
                68912, 69734, 69872, 69942, 70096, 70384, 70736, 70864, 71248, 71360, 71472,
                71904, 72016, 72784, 73040, 73120, 92768, 92864, 93008, 120782, 120792, 120802,
                120812, 120822, 123200, 123632, 125264, 130032
            ])) AS known (zeros)
            CROSS JOIN LATERAL (SELECT zeros[width_bucket(ascii(c), zeros)] AS zero) AS nearest);
    END IF;
    spelling := btrim(spelling, around);
    spelling := btrim(
        regexp_replace(spelling, '^([tT][eE][lL]|[sS][mM][sS]([tT][oO])?|[cC][aA][lL][lL][tT][oO]):', ''), around);
    has_plus := spelling ~ '^\+';
    spelling := regexp_replace(spelling, '^\+', '');
    IF spelling !~ '[0-9]' OR spelling !~ E'^[0-9 \n./()-]*$' THEN
        RETURN NULL;
    END IF;
    -- 532123456.0 is what a spreadsheet makes of nine digits.
    IF spelling ~ '\. *[0-9]$' OR spelling ~ '^[0-9]{7,}\. *([0-9]{2}|0+)$' THEN
        RETURN NULL;
    END IF;
    bare := translate(spelling, E' \n./-', '');
    abroad := has_plus OR translate(bare, '()', '') ~ '^00';
    IF abroad THEN
        -- +49 (0) 171: the 0 is for those who dial inside the country. Behind 90 any 0 is, in brackets or not.
        bare := regexp_replace(bare, '^((?:00)?(?!90)[1-9][0-9]{0,2}\)?)\(0\)', '\1');
    END IF;
    digits := translate(bare, '()', '');
    IF NOT has_plus THEN
        digits := regexp_replace(digits, '^00', '');
    END IF;
    IF digits ~ '^900?5[0-9]{9}$' OR NOT abroad AND digits ~ '^0?5[0-9]{9}$' THEN
        RETURN '90' || right(digits, 10);
    -- Any other 90 is Turkish, and +5 and nine more digits may be a Turkish number without its 90. A bracketed 0 belongs to the
    -- number in some countries; a list of foreign numbers has no length to tell it by.
    ELSIF international AND abroad AND digits ~ '^[1-9][0-9]{7,14}$' AND digits !~ '^90' AND digits !~ '^5[0-9]{9}$'
      AND bare !~ '\(0' AND spelling !~ E'\n' AND spelling !~ '/([^0-9/]*[0-9]){0,4}[^0-9/]*$' THEN
        RETURN '+' || digits;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION sms_outbox.normalize_number(text, boolean) IS
    'The number as workers would send it: 905XXXXXXXXX for a Turkish mobile; where international is true, + and digits for one of '
    'another country; null for what cannot be read as one, or could be another number. For producers that want to know early; '
    'workers read every spelling by themselves, in the same steps (message/spelling.rs).';

--------------------------------------------------------------------------------------------------------------- Long lists

CREATE FUNCTION sms_outbox.enqueue_bulk(
    sender text,
    recipients text[],
    body text,
    iys boolean,
    iys_list text DEFAULT NULL,
    account text DEFAULT 'default',
    priority integer DEFAULT 1,
    due_at timestamptz DEFAULT now(),
    expires_at timestamptz DEFAULT NULL,
    provider_send_at timestamptz DEFAULT NULL,
    idempotency_key text DEFAULT NULL,
    max_attempts integer DEFAULT 15,
    metadata jsonb DEFAULT '{}',
    traceparent text DEFAULT NULL
) RETURNS SETOF uuid
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_variable
DECLARE
    batch uuid := sms_outbox.uuid_v7();
BEGIN
    IF coalesce(cardinality(recipients), 0) = 0 THEN
        RAISE EXCEPTION 'enqueue_bulk needs at least one recipient'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_recipients_has_1_to_50000_numbers';
    END IF;
    RETURN QUERY
    WITH part AS (
        SELECT (entry.place - 1) / 50000 AS n, array_agg(entry.number ORDER BY entry.place) AS numbers
        FROM unnest(recipients) WITH ORDINALITY AS entry (number, place)
        GROUP BY 1
    ), inserted AS (
        INSERT INTO sms_outbox.jobs AS job (
            sender, recipients, body, iys, iys_list, account, priority, due_at, expires_at, provider_send_at,
            idempotency_key, max_attempts, metadata, traceparent, batch_id)
        SELECT sender, part.numbers, body, iys, iys_list, account, priority::smallint,
               -- A microsecond apart: the parts are sent one after another, in the order of the list.
               due_at + part.n * interval '1 microsecond',
               expires_at, provider_send_at,
               CASE WHEN part.n = 0 THEN idempotency_key ELSE idempotency_key || '/' || (part.n + 1) END,
               max_attempts::smallint, metadata, traceparent, batch
        FROM part ORDER BY part.n
        RETURNING job.id, job.due_at
    )
    SELECT inserted.id FROM inserted ORDER BY inserted.due_at;
END
$$;
COMMENT ON FUNCTION sms_outbox.enqueue_bulk IS
    'Cuts a list of any length into jobs of at most 50,000 recipients that share a batch_id and are sent one after another, '
    'each with an order of its own. Returns their ids in sending order. The first job keeps the idempotency_key, the further '
    'ones get /2, /3 and so on behind it.';

---------------------------------------------------------------------------------------------------------- Priority limits

-- Which producers may not say that everything is urgent. Empty, and no insert looks at it, until `grant` writes the first one
-- and makes the trigger that reads it (src/outbox/grants/priority_trigger.sql).
CREATE TABLE sms_outbox.priority_limits (
    role        name     NOT NULL,
    most_urgent smallint NOT NULL,
    CONSTRAINT priority_limits_pkey PRIMARY KEY (role),
    CONSTRAINT priority_limits_most_urgent_is_1_to_3 CHECK (most_urgent IN (1, 2, 3))
);
COMMENT ON TABLE sms_outbox.priority_limits IS
    'Producers that may not use every priority. Written by sms-outbox grant producer ROLE --max-priority N.';
COMMENT ON CONSTRAINT priority_limits_most_urgent_is_1_to_3 ON sms_outbox.priority_limits IS
    'Who may use every priority, from 0 on, has no limit.';
COMMENT ON COLUMN sms_outbox.priority_limits.role IS
    'The database role that logs in (session_user), by its name: that is what a dump keeps.';
COMMENT ON COLUMN sms_outbox.priority_limits.most_urgent IS 'The most urgent priority that it may use: this number and greater ones.';

-- With its owner's rights: a producer that was granted columns by hand may not read the table. It shows nothing of the row.
CREATE FUNCTION sms_outbox.hold_to_priority_limit() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    v_limit smallint;
BEGIN
    SELECT most_urgent INTO v_limit FROM sms_outbox.priority_limits WHERE role = session_user;
    IF new.priority < v_limit THEN
        RAISE EXCEPTION 'the role % may use no priority below %', session_user, v_limit
            USING ERRCODE = 'check_violation', SCHEMA = 'sms_outbox', TABLE = 'jobs',
                  CONSTRAINT = 'jobs_priority_is_allowed_to_the_producer';
    END IF;
    RETURN new;
END
$$;
COMMENT ON FUNCTION sms_outbox.hold_to_priority_limit() IS
    'Refuses a job that is more urgent than its producer may say (sms_outbox.priority_limits).';

---------------------------------------------------------------------------------------------------- The queue at a glance

CREATE VIEW sms_outbox.queue_stats AS
WITH holding AS (
    SELECT account,
           bool_or(scope = 'account') AS whole_account,
           -- The first ten: an account may have thousands of paused senders.
           string_agg(
               CASE scope WHEN 'account' THEN 'account' WHEN 'iys' THEN 'marketing (iys)' ELSE 'sender ' || sender END
                   || ': ' || reason,
               '; ' ORDER BY scope, sender) FILTER (WHERE place <= 10)
               || CASE WHEN count(*) > 10 THEN '; and ' || count(*) - 10 || ' more' ELSE '' END AS reasons,
           min(since) AS since
    FROM (
        SELECT *, row_number() OVER (PARTITION BY account ORDER BY scope, sender) AS place
        FROM sms_outbox.pauses
        WHERE ended_at IS NULL AND (until IS NULL OR until > now())
    ) AS live
    GROUP BY account
), counted AS (
    SELECT account, status, count(*) AS jobs,
           min(due_at) FILTER (WHERE status = 'queued' AND due_at <= now()) AS oldest_due
    FROM sms_outbox.jobs
    GROUP BY account, status
)
SELECT coalesce(counted.account, holding.account) AS account,
       counted.status,
       coalesce(counted.jobs, 0) AS jobs,
       now() - counted.oldest_due AS oldest_due_age,
       coalesce(holding.whole_account, false) AS paused,
       holding.reasons AS paused_why,
       holding.since AS paused_since
FROM counted FULL JOIN holding USING (account);
COMMENT ON VIEW sms_outbox.queue_stats IS
    'Per account and status: how many jobs, the age of the oldest one that is due, whether the whole account is paused, and '
    'the first ten pauses of the account with their reasons. An account that is paused and has no jobs shows up with a null status.';

---------------------------------------------------------------------------------------------------------------- Retention

CREATE FUNCTION sms_outbox.prune(finished_before timestamptz, at_most integer DEFAULT 10000) RETURNS bigint
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    WITH old AS (
        SELECT id FROM sms_outbox.jobs
        WHERE jobs.finished_at < prune.finished_before
        LIMIT prune.at_most
        FOR UPDATE SKIP LOCKED
    ), forgotten AS (
        DELETE FROM sms_outbox.attempt_log WHERE job_id IN (SELECT id FROM old)
    ), dropped AS (
        DELETE FROM sms_outbox.reconciliation_tasks WHERE job_id IN (SELECT id FROM old)
    ), changeable AS (
        DELETE FROM sms_outbox.refused_jobs WHERE job_id IN (SELECT id FROM old)
    ), delivered AS (
        DELETE FROM sms_outbox.deliveries WHERE job_id = ANY (ARRAY(SELECT id FROM old))
    ), told AS (
        DELETE FROM sms_outbox.change_log AS log
        WHERE (log.xid, log.id) IN (
            SELECT first.xid, first.id FROM (
                SELECT xid, id, at FROM sms_outbox.change_log ORDER BY xid, id LIMIT prune.at_most) AS first
            WHERE first.at < prune.finished_before)
    ), pruned AS (
        DELETE FROM sms_outbox.jobs WHERE id = ANY (ARRAY(SELECT id FROM old)) RETURNING 1
    )
    SELECT count(*) FROM pruned;
END;
COMMENT ON FUNCTION sms_outbox.prune(timestamptz, integer) IS
    'Deletes finished jobs, with their history and deliveries, that ended before the given moment, at most so many at once; returns how many. '
    'Call it until it returns 0. Their idempotency keys become free again.';
