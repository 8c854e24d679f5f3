-- The outbox: one table that producers write, one history that is only appended to, and the little state that a fleet of
-- workers shares. Everything lives in the schema sms_outbox; nothing outside it is touched. PostgreSQL 14 to 18.

CREATE SCHEMA IF NOT EXISTS sms_outbox;
COMMENT ON SCHEMA sms_outbox IS 'Transactional outbox for SMS: rows inserted here are sent by sms-outbox workers.';

-- Time-ordered ids keep inserts on the right-hand edge of the primary key. Bodies are parsed at definition (RETURN), so a
-- caller's search_path cannot change what they mean.
CREATE FUNCTION sms_outbox.uuid_v7() RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN encode(
    set_bit(
        set_bit(
            overlay(
                uuid_send(gen_random_uuid())
                PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                FROM 1 FOR 6
            ),
            52, 1
        ),
        53, 1
    ),
    'hex'
)::uuid;
COMMENT ON FUNCTION sms_outbox.uuid_v7() IS
    'A version 7 uuid (RFC 9562): 48 bits of milliseconds since 1970, then randomness.';

CREATE TABLE sms_outbox.jobs (
    -- What a producer says.
    id                  uuid        NOT NULL DEFAULT sms_outbox.uuid_v7(),
    account             text        NOT NULL DEFAULT 'default',
    sender              text        NOT NULL,
    recipients          text[]      NOT NULL,
    body                text        NOT NULL,
    iys                 boolean     NOT NULL,
    iys_list            text,
    priority            smallint    NOT NULL DEFAULT 1,
    due_at              timestamptz NOT NULL DEFAULT now(),
    expires_at          timestamptz,
    provider_send_at    timestamptz,
    idempotency_key     text,
    max_attempts        smallint    NOT NULL DEFAULT 15,
    metadata            jsonb       NOT NULL DEFAULT '{}',
    traceparent         text,
    batch_id            uuid,

    -- What became of it. Only workers and operators write below this line.
    status              text        NOT NULL DEFAULT 'queued',
    attempt             smallint    NOT NULL DEFAULT 0,
    order_id            text,
    duplicate           boolean     NOT NULL DEFAULT false,
    duplicate_of        uuid,
    rejected_recipients text[],
    error_class         text,
    error_code          integer,
    error_message       text,
    ambiguous_since     timestamptz,
    created_at          timestamptz NOT NULL DEFAULT now(),
    sent_at             timestamptz,
    finished_at         timestamptz,

    -- The claim.
    token               integer     NOT NULL DEFAULT 0,
    worker              text,
    claimed_at          timestamptz,
    lease_until         timestamptz,
    answer_http_status  smallint,
    answer_ms           integer,
    twin_key            bigint,
    parked              text,
    bulk                boolean     NOT NULL GENERATED ALWAYS AS (cardinality(recipients) > 100 OR batch_id IS NOT NULL) STORED,

    CONSTRAINT jobs_pkey PRIMARY KEY (id),
    CONSTRAINT jobs_idempotency_key_unique_per_account UNIQUE (account, idempotency_key),

    -- Programming errors: they fail the insert, and the name says what is wrong.
    CONSTRAINT jobs_account_not_empty CHECK (account <> ''),
    CONSTRAINT jobs_sender_has_1_to_11_characters CHECK (char_length(sender) BETWEEN 1 AND 11),
    CONSTRAINT jobs_recipients_has_1_to_50000_numbers CHECK (cardinality(recipients) BETWEEN 1 AND 50000),
    CONSTRAINT jobs_recipients_is_a_flat_list CHECK (cardinality(recipients) = 0 OR array_ndims(recipients) = 1),
    CONSTRAINT jobs_body_not_empty CHECK (body <> ''),
    CONSTRAINT jobs_iys_list_exactly_when_iys CHECK (iys = (iys_list IS NOT NULL)),
    CONSTRAINT jobs_iys_list_is_bireysel_or_tacir CHECK (iys_list IN ('BIREYSEL', 'TACIR')),
    CONSTRAINT jobs_apitest_sender_needs_iys_false CHECK (NOT (sender = 'APITEST' AND iys)),
    CONSTRAINT jobs_priority_is_0_to_3 CHECK (priority BETWEEN 0 AND 3),
    CONSTRAINT jobs_max_attempts_at_least_1 CHECK (max_attempts >= 1),
    CONSTRAINT jobs_due_at_finite CHECK (isfinite(due_at)),
    CONSTRAINT jobs_expires_at_finite CHECK (isfinite(expires_at)),
    CONSTRAINT jobs_provider_send_at_finite CHECK (isfinite(provider_send_at)),
    CONSTRAINT jobs_idempotency_key_not_empty CHECK (idempotency_key <> ''),

    -- What the worker promises about its own writing.
    CONSTRAINT jobs_status_known CHECK (
        status IN ('queued', 'sending', 'sent', 'failed', 'uncertain', 'expired', 'cancelled')),
    CONSTRAINT jobs_error_class_known CHECK (
        error_class IN ('auth', 'balance', 'account', 'sender', 'recipients', 'content', 'iys', 'schedule', 'request',
                        'rate_limited', 'unavailable', 'network', 'timeout', 'unknown')),
    CONSTRAINT jobs_finished_exactly_when_final CHECK (
        (finished_at IS NOT NULL) = (status IN ('sent', 'failed', 'expired', 'cancelled'))),
    CONSTRAINT jobs_sent_at_exactly_when_sent CHECK ((sent_at IS NOT NULL) = (status = 'sent')),
    CONSTRAINT jobs_leased_exactly_when_sending CHECK ((lease_until IS NOT NULL) = (status = 'sending')),
    CONSTRAINT jobs_failed_has_a_class CHECK (status <> 'failed' OR error_class IS NOT NULL),
    CONSTRAINT jobs_uncertain_has_a_doubt CHECK (status <> 'uncertain' OR ambiguous_since IS NOT NULL),
    CONSTRAINT jobs_order_id_only_when_sent CHECK (order_id IS NULL OR status = 'sent'),
    CONSTRAINT jobs_duplicate_only_when_sent CHECK (status = 'sent' OR NOT duplicate),
    CONSTRAINT jobs_duplicate_of_only_for_a_duplicate CHECK (duplicate OR duplicate_of IS NULL),
    CONSTRAINT jobs_attempt_not_negative CHECK (attempt >= 0),
    CONSTRAINT jobs_parked_known CHECK (parked IN ('sender', 'iys'))
)
-- Every job is updated twice at least, and finished rows pile up: vacuum by count, not by share of a growing table.
WITH (
    -- Room for both updates on the row's own page: 1,145 bytes of log per sent job instead of 1,378 at 100 (20,000 short
    -- messages, one checkpoint).
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 20000
);

COMMENT ON TABLE sms_outbox.jobs IS
    'One row per message to be sent. Producers insert, workers move the status on, anyone may ask.';
COMMENT ON COLUMN sms_outbox.jobs.id IS 'The job. A version 7 uuid unless the producer chose its own. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.account IS 'Which provider account pays and limits. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.sender IS
    'Approved header, 1 to 11 characters; case and spaces count. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.recipients IS
    '1 to 50,000 mobile numbers in any spelling that people type. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.body IS 'The message text, sent as it stands. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.iys IS
    'Whether it markets something, so that consent is checked in the registry (IYS). No default: the legal question is '
    'answered by whoever writes the row.';
COMMENT ON COLUMN sms_outbox.jobs.iys_list IS
    'Which consent list: BIREYSEL (individuals) or TACIR (merchants). Present exactly when iys is true. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.priority IS
    '0 (one-time passwords) to 3 (campaigns); smaller goes first. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.due_at IS 'Not before this moment. Written by the producer; a retry moves it.';
COMMENT ON COLUMN sms_outbox.jobs.expires_at IS 'Never sent at or after this moment. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.provider_send_at IS
    'When the provider is to send it, if the schedule is handed over (sendDateTime; whole minutes). Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.idempotency_key IS
    'Unique per account, also after the job has ended: inserting twice with one key makes one job. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.max_attempts IS
    'How many requests may be tried before giving up; pauses of the account spend none. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.metadata IS 'The producer''s own; workers never read it. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.traceparent IS
    'W3C trace context, carried on into the worker''s spans. Written by the producer.';
COMMENT ON COLUMN sms_outbox.jobs.batch_id IS
    'Shared by the jobs that enqueue_bulk cut one long list into; null otherwise. Written by enqueue_bulk.';
COMMENT ON COLUMN sms_outbox.jobs.status IS
    'queued, sending, sent, failed, uncertain, expired or cancelled. Written by workers and operators.';
COMMENT ON COLUMN sms_outbox.jobs.attempt IS
    'How many attempts have been spent; while sending, the number of the one under way. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.order_id IS
    'The provider''s number for the order. For a duplicate, that of its twin where it is known. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.duplicate IS
    'Whether the provider answered 451: the same content had been accepted a short while before. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.duplicate_of IS
    'The job of ours whose content was accepted instead. Null for a duplicate of itself, or of a message that is not ours. '
    'Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.rejected_recipients IS
    'Those of the recipients that could not be read and were left out, as they were written. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.error_class IS
    'What kind of trouble the last attempt met; null once sent. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.error_code IS 'The provider''s own number for it, where there was one. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.error_message IS
    'A sentence about it; never holds a number, a text or a credential. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.ambiguous_since IS
    'When the first attempt was claimed that may have been accepted and was never answered. The provider''s duplicate '
    'guard protects repeats only for a while after it. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.created_at IS 'When the row was inserted. Written by the default.';
COMMENT ON COLUMN sms_outbox.jobs.sent_at IS 'When its acceptance was recorded. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.finished_at IS 'When it reached a final status. Written by workers and operators.';
COMMENT ON COLUMN sms_outbox.jobs.token IS
    'Counts the claims of this job. A worker may only record what it did under the claim it still holds. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.worker IS 'Who claimed it last. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.claimed_at IS 'When it was claimed last. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.lease_until IS
    'Until when the claim holds; after it, whoever looks takes the job over as "may have been sent". Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.answer_http_status IS
    'HTTP status of the accepting answer, where the claim that asked for it recorded it. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.answer_ms IS
    'Milliseconds from the start of that request to its answer. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.twin_key IS
    'Finds jobs of equal content: number of the five minutes since 1970 in the high 24 bits, 40 bits of a hash of account, '
    'numbers and text in the low ones. Set once the content may have been accepted. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.parked IS
    'Out of the claim''s way because of a pause of this scope (sender or iys); null otherwise. A claim would have to step over '
    'every message of a paused sender, each time. Written by workers.';
COMMENT ON COLUMN sms_outbox.jobs.bulk IS
    'A bulk order (more than 100 numbers, or a part of a batch): one at a time per account, outside the per-second limit. '
    'Computed.';

-- The claim's order, once for single messages and once for bulk orders, so that neither has to step over the other.
CREATE INDEX jobs_single_due ON sms_outbox.jobs (account, priority, due_at)
    WHERE status = 'queued' AND NOT bulk AND parked IS NULL;
CREATE INDEX jobs_bulk_due ON sms_outbox.jobs (account, priority, due_at) WHERE status = 'queued' AND bulk;
CREATE INDEX jobs_parked ON sms_outbox.jobs (account, parked, sender) WHERE status = 'queued' AND parked IS NOT NULL;
-- Rescue looks for leases that have run out.
CREATE INDEX jobs_lease ON sms_outbox.jobs (lease_until) WHERE status = 'sending';
-- The database itself keeps bulk orders apart: two workers that race for the slot cannot both win.
CREATE UNIQUE INDEX jobs_one_bulk_order_at_a_time ON sms_outbox.jobs (account) WHERE status = 'sending' AND bulk;
-- Jobs that waited past their expiry, or past the guard window of a doubt, without being claimed.
CREATE INDEX jobs_expiry ON sms_outbox.jobs (expires_at) WHERE status = 'queued' AND expires_at IS NOT NULL;
CREATE INDEX jobs_doubt ON sms_outbox.jobs (ambiguous_since) WHERE status = 'queued' AND ambiguous_since IS NOT NULL;
-- What a person or reconciliation has to look at: few rows, and they must be found among millions.
CREATE INDEX jobs_uncertain ON sms_outbox.jobs (ambiguous_since) WHERE status = 'uncertain';
CREATE INDEX jobs_order_unknown ON sms_outbox.jobs (sent_at) WHERE status = 'sent' AND order_id IS NULL;
-- Whose twin is this 451? The five-minute number leads, so that insertions stay on a few hot pages.
CREATE INDEX jobs_twin ON sms_outbox.jobs (twin_key) WHERE twin_key IS NOT NULL;

-- The history behind the view sms_outbox.attempts. The accepting answer of the claim that held the job is read from the
-- job itself, so that the common case writes no extra row.
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
    progress      text        NOT NULL,
    http_status   smallint,
    provider_code integer,
    error_class   text,
    error_message text,
    order_id      text,
    late          boolean     NOT NULL DEFAULT false,
    CONSTRAINT attempt_log_pkey PRIMARY KEY (id),
    -- Recording may be repeated when its own answer was lost; the history stays single.
    CONSTRAINT attempt_log_once_per_observer UNIQUE (job_id, token, observer),
    CONSTRAINT attempt_log_observer_known CHECK (observer IN ('worker', 'rescue', 'operator', 'reconciliation')),
    CONSTRAINT attempt_log_progress_known CHECK (progress IN ('not_sent', 'maybe_sent', 'answered'))
) WITH (autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000);
COMMENT ON TABLE sms_outbox.attempt_log IS
    'What was observed about requests, except the plain acceptances that jobs themselves hold. Only ever appended to; read '
    'it through sms_outbox.attempts.';
COMMENT ON COLUMN sms_outbox.attempt_log.id IS 'Order of appending.';
COMMENT ON COLUMN sms_outbox.attempt_log.job_id IS 'The job.';
COMMENT ON COLUMN sms_outbox.attempt_log.token IS 'Which claim of the job made the request (jobs.token at that time).';
COMMENT ON COLUMN sms_outbox.attempt_log.observer IS
    'Who says so: the worker that made the request, the rescue of an abandoned claim, an operator, or reconciliation.';
COMMENT ON COLUMN sms_outbox.attempt_log.attempt IS 'Number of the attempt, from 1.';
COMMENT ON COLUMN sms_outbox.attempt_log.counted IS
    'Whether it was spent. False when the account was the trouble and the attempt was given back.';
COMMENT ON COLUMN sms_outbox.attempt_log.worker IS 'The worker that made the request.';
COMMENT ON COLUMN sms_outbox.attempt_log.started_at IS 'When the job was claimed for it.';
COMMENT ON COLUMN sms_outbox.attempt_log.recorded_at IS 'When this row was written.';
COMMENT ON COLUMN sms_outbox.attempt_log.duration_ms IS 'Milliseconds the request took, where that was seen.';
COMMENT ON COLUMN sms_outbox.attempt_log.progress IS
    'How far the request got: not_sent (surely never left), maybe_sent (may have been accepted, no answer read), answered.';
COMMENT ON COLUMN sms_outbox.attempt_log.http_status IS 'HTTP status of the answer, where there was one.';
COMMENT ON COLUMN sms_outbox.attempt_log.provider_code IS 'The code in the answer''s body, where it could be read.';
COMMENT ON COLUMN sms_outbox.attempt_log.error_class IS 'As in jobs.';
COMMENT ON COLUMN sms_outbox.attempt_log.error_message IS 'As in jobs.';
COMMENT ON COLUMN sms_outbox.attempt_log.order_id IS 'The order, where the answer named one.';
COMMENT ON COLUMN sms_outbox.attempt_log.late IS 'Whether it came after the claim had been lost.';

CREATE FUNCTION sms_outbox.refuse_to_edit_history() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'sms_outbox.attempt_log is only appended to' USING ERRCODE = 'integrity_constraint_violation';
END
$$;
CREATE TRIGGER attempt_log_is_append_only BEFORE UPDATE ON sms_outbox.attempt_log
    FOR EACH STATEMENT EXECUTE FUNCTION sms_outbox.refuse_to_edit_history();

CREATE VIEW sms_outbox.attempts AS
SELECT job_id, attempt, token, observer, counted, late, worker, started_at, duration_ms, progress, http_status,
       provider_code, error_class, error_message, order_id
FROM sms_outbox.attempt_log
UNION ALL
SELECT id, attempt, token, 'worker', true, false, worker, claimed_at, answer_ms, 'answered', answer_http_status,
       CASE WHEN duplicate THEN 451 ELSE 200 END, NULL, NULL, CASE WHEN NOT duplicate THEN order_id END
FROM sms_outbox.jobs
WHERE status = 'sent' AND answer_ms IS NOT NULL;
COMMENT ON VIEW sms_outbox.attempts IS
    'One row for every request that left, or may have left, a worker: the whole history of every job.';

-- Who waits, and why. One row per account, sender or account's marketing; it stays after its end, so that a pause that
-- comes back soon is probed less often.
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
    strikes     integer     NOT NULL DEFAULT 1,
    has_parked  boolean     NOT NULL DEFAULT false,
    ended_at    timestamptz,
    ended_by    text,
    CONSTRAINT pauses_pkey PRIMARY KEY (account, scope, sender),
    CONSTRAINT pauses_scope_known CHECK (scope IN ('account', 'sender', 'iys')),
    CONSTRAINT pauses_sender_exactly_for_a_sender CHECK ((sender <> '') = (scope = 'sender'))
);
COMMENT ON TABLE sms_outbox.pauses IS 'What is held back and why. A pause is over when ended_at is set or until has passed.';
COMMENT ON COLUMN sms_outbox.pauses.account IS 'The account.';
COMMENT ON COLUMN sms_outbox.pauses.scope IS
    'account: every job; sender: the jobs of one sender; iys: the marketing jobs (iys = true).';
COMMENT ON COLUMN sms_outbox.pauses.sender IS 'The sender, for scope sender; empty otherwise.';
COMMENT ON COLUMN sms_outbox.pauses.error_class IS 'The trouble behind it, as in jobs; null when an operator paused.';
COMMENT ON COLUMN sms_outbox.pauses.error_code IS 'The provider''s number for it, where there was one.';
COMMENT ON COLUMN sms_outbox.pauses.reason IS 'A sentence for the operator.';
COMMENT ON COLUMN sms_outbox.pauses.paused_by IS 'The worker that met the trouble, or the operator.';
COMMENT ON COLUMN sms_outbox.pauses.since IS 'When it began.';
COMMENT ON COLUMN sms_outbox.pauses.until IS 'When it ends by itself; null: by a probe or by hand.';
COMMENT ON COLUMN sms_outbox.pauses.probe_at IS 'When a worker asks the provider next whether the trouble is over; null: never.';
COMMENT ON COLUMN sms_outbox.pauses.strikes IS
    'How often in a row it began or was probed in vain; spaces the probes.';
COMMENT ON COLUMN sms_outbox.pauses.has_parked IS 'Whether jobs have been put out of the claim''s way because of it.';
COMMENT ON COLUMN sms_outbox.pauses.ended_at IS 'When it was ended; null while it holds.';
COMMENT ON COLUMN sms_outbox.pauses.ended_by IS 'Who ended it.';

-- The fleet's limit: how many recipients have been granted in each 10 ms of the last second, per account.
CREATE TABLE sms_outbox.rate_rings (
    account   text     NOT NULL PRIMARY KEY,
    first     bigint   NOT NULL,
    granted   integer[] NOT NULL,
    paced_to  bigint   NOT NULL DEFAULT 0,
    widest    integer  NOT NULL DEFAULT 0,
    widest_to bigint   NOT NULL DEFAULT 0
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE sms_outbox.rate_rings IS 'The limit that all workers of an account share. Written by reserve_slots.';
COMMENT ON COLUMN sms_outbox.rate_rings.account IS 'The account.';
COMMENT ON COLUMN sms_outbox.rate_rings.first IS 'Number of the 10 ms since 1970 that granted[1] stands for.';
COMMENT ON COLUMN sms_outbox.rate_rings.granted IS 'Recipients granted in each 10 ms, oldest first.';
COMMENT ON COLUMN sms_outbox.rate_rings.widest IS
    'The widest window that anyone has asked for lately: a message that may leave late needs room before those of others too.';
COMMENT ON COLUMN sms_outbox.rate_rings.widest_to IS 'Number of the 10 ms until which that has to be minded.';
COMMENT ON COLUMN sms_outbox.rate_rings.paced_to IS
    'Microseconds since 1970 before which no further message above priority 0 gets a slot: spreads them evenly, so that an '
    'urgent one never meets a second that is already spent.';

CREATE FUNCTION sms_outbox.reserve_slots(
    p_account text, p_limit integer, p_window integer, p_horizon integer, p_weights integer[], p_urgent boolean[])
RETURNS TABLE (place integer, wait_us integer)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now     bigint;      -- microseconds since 1970
    v_bucket  bigint;      -- the 10 ms we are in
    v_oldest  bigint;      -- the first 10 ms of the window that ends now
    v_window  integer;     -- p_window, or the widest that still has to be minded
    v_ring    sms_outbox.rate_rings;
    v_granted integer[];   -- places 1 .. window: the window that ends now; then what lies ahead
    v_last    integer;     -- no slot lies before this place: what others reserved stays first
    v_sum     integer;     -- granted in the window that ends at v_last
    v_weight  integer;
    v_start   integer;
    v_reach   integer;     -- the last place that may be reserved
    v_lost    integer;     -- granted further ahead than anyone may reserve
    v_any     boolean := false;
BEGIN
    IF p_limit <= 0 THEN
        RETURN QUERY SELECT n, 0 FROM generate_series(1, cardinality(p_weights)) AS n;
        RETURN;
    END IF;
    IF coalesce(cardinality(p_weights), 0) = 0 THEN
        RETURN;
    END IF;

    SELECT * INTO v_ring FROM sms_outbox.rate_rings WHERE account = p_account FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO sms_outbox.rate_rings (account, first, granted) VALUES (p_account, 0, '{}') ON CONFLICT DO NOTHING;
        SELECT * INTO v_ring FROM sms_outbox.rate_rings WHERE account = p_account FOR UPDATE;
    END IF;

    -- Read after the lock: time spent waiting for it must not make slots look later than they are.
    v_now := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    v_bucket := v_now / 10000;
    v_window := greatest(p_window, CASE WHEN v_ring.widest_to >= v_bucket THEN v_ring.widest ELSE 0 END);
    v_oldest := v_bucket - v_window + 1;

    SELECT array_agg(
        coalesce(v_ring.granted[greatest(-1, least(v_oldest + n - v_ring.first, 1000000000))::integer], 0) ORDER BY n)
    INTO v_granted
    FROM generate_series(1, 2 * v_window + p_horizon) AS n;
    -- What lies further ahead than anyone may reserve was granted before the clock was set back, and may have been sent a
    -- moment ago: it counts as of now.
    SELECT coalesce(sum(g), 0) INTO v_lost FROM unnest(v_ring.granted) WITH ORDINALITY AS entry (g, n)
    WHERE v_ring.first + n - 1 > v_bucket + v_window + p_horizon;
    IF v_lost > 0 THEN
        v_granted[v_window] := v_granted[v_window] + v_lost;
        v_any := true;
    END IF;
    IF v_ring.paced_to > v_now + 2 * (v_window + p_horizon) * 10000::bigint THEN
        v_ring.paced_to := v_now;
    END IF;

    v_last := v_window;
    FOR n IN v_window + 1 .. 2 * v_window + p_horizon LOOP
        IF v_granted[n] > 0 THEN
            v_last := n;
        END IF;
    END LOOP;
    v_sum := 0;
    FOR n IN v_last - v_window + 1 .. v_last LOOP
        v_sum := v_sum + v_granted[n];
    END LOOP;

    FOR i IN 1 .. cardinality(p_weights) LOOP
        -- A job above the limit by itself waits for an empty second and then pays for the following ones through the pace.
        v_weight := least(p_weights[i], p_limit);
        v_start := v_last;
        v_reach := v_window + p_horizon;
        IF v_weight > 1 THEN
            -- Needs a gap that single messages would fill for ever: it reserves up to a window ahead, and they line up
            -- behind it.
            v_reach := v_reach + v_window;
        ELSIF NOT p_urgent[i] THEN
            v_start := greatest(
                v_start, v_window + least(greatest(v_ring.paced_to / 10000 - v_bucket, 0), v_reach + 1)::integer);
        END IF;
        WHILE v_last < v_start OR v_sum + v_weight > p_limit LOOP
            v_last := v_last + 1;
            EXIT WHEN v_last > v_reach;
            v_sum := v_sum + v_granted[v_last] - v_granted[v_last - v_window];
        END LOOP;
        EXIT WHEN v_last > v_reach;
        v_granted[v_last] := v_granted[v_last] + v_weight;
        v_sum := v_sum + v_weight;
        v_any := true;
        place := i;
        wait_us := ((v_bucket + v_last - v_window) * 10000 - v_now)::integer;
        RETURN NEXT;
        v_ring.paced_to := greatest(v_ring.paced_to, (v_bucket + v_last - v_window) * 10000)
            + p_weights[i]::bigint * v_window * 10000 / p_limit;
    END LOOP;

    IF v_any THEN
        UPDATE sms_outbox.rate_rings
        SET first = v_oldest, granted = v_granted, paced_to = v_ring.paced_to,
            widest = v_window,
            -- For as long as a slot that was granted under the wider window can still be near.
            widest_to = CASE WHEN p_window >= v_window THEN v_bucket + 3 * v_window + p_horizon ELSE v_ring.widest_to END
        WHERE account = p_account;
    END IF;
END
$$;
COMMENT ON FUNCTION sms_outbox.reserve_slots(text, integer, integer, integer, integer[], boolean[]) IS
    'Reserves moments at which messages of the given weights (recipients) may leave, such that no p_window consecutive 10 ms '
    'hold more than p_limit recipients over all workers. Returns, for as many of them as fit before p_horizon further 10 ms '
    'have passed (messages of several recipients: a window later), their place in the list and the microseconds until their '
    '10 ms begin (negative: they have begun). Urgent ones skip the even pacing, never the limit.';

CREATE FUNCTION sms_outbox.normalize_number(number text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (
    SELECT '90' || (regexp_match(bare, '^(?:\+?90|0090)?0?(5[0-9]{9})$'))[1]
    FROM (
        SELECT regexp_replace(
            number,
            -- What people type between digits, and what phones paste around them: the same list as in the worker, and no
            -- \s, which means something else in another locale.
            E'[-\t\n\u000B\f\r ().\\/\u0085\u00A0\u00AD\u061C\u1680\u180E\u2000-\u200F\u2010-\u2015\u2028-\u202F'
            '\u205F-\u2064\u2066-\u2069\u2212\u3000\uFE0F\uFE58\uFE63\uFEFF\uFF0D]',
            '', 'g') AS bare
    ) AS stripped
);
COMMENT ON FUNCTION sms_outbox.normalize_number(text) IS
    'The Turkish mobile number as 905XXXXXXXXX, or null if it cannot be read as one. For producers that want to know early; '
    'workers read every spelling by themselves.';

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

CREATE VIEW sms_outbox.queue_stats AS
WITH holding AS (
    SELECT account,
           bool_or(scope = 'account') AS whole_account,
           string_agg(
               CASE scope WHEN 'account' THEN 'account' WHEN 'iys' THEN 'marketing (iys)' ELSE 'sender ' || sender END
                   || ': ' || reason,
               '; ' ORDER BY scope, sender) AS reasons,
           min(since) AS since
    FROM sms_outbox.pauses
    WHERE ended_at IS NULL AND (until IS NULL OR until > now())
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
    'every pause of the account with its reason. An account that is paused and has no jobs shows up with a null status.';

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
    ), pruned AS (
        DELETE FROM sms_outbox.jobs WHERE id = ANY (ARRAY(SELECT id FROM old)) RETURNING 1
    )
    SELECT count(*) FROM pruned;
END;
COMMENT ON FUNCTION sms_outbox.prune(timestamptz, integer) IS
    'Deletes finished jobs, and their history, that ended before the given moment, at most so many at once; returns how many. '
    'Call it until it returns 0. Their idempotency keys become free again.';
