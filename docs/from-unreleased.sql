-- Copies what the schema of the last version before the first release holds, after it was renamed to sms_outbox_old and
-- `sms-outbox migrate` has made the new one. See operations.md, "A schema from before the first release".
BEGIN;

INSERT INTO sms_outbox.jobs (
    id, account, sender, recipients, body, iys, iys_list, priority, due_at, expires_at, provider_send_at, idempotency_key,
    max_attempts, metadata, traceparent, batch_id, status, attempt, order_id, duplicate, duplicate_of, rejected_recipients,
    error_class, error_code, error_message, ambiguous_since, created_at, sent_at, finished_at, token, worker, claimed_at,
    lease_until, answer_http_status, answer_ms, content_key)
SELECT
    id, account, sender, recipients, body, iys, iys_list, priority, due_at, expires_at, provider_send_at, idempotency_key,
    max_attempts, metadata, traceparent, batch_id, status, attempt, order_id, duplicate, duplicate_of, rejected_recipients,
    error_class, error_code, error_message, ambiguous_since, created_at, sent_at, finished_at, token, worker, claimed_at,
    lease_until, answer_http_status, answer_ms, twin_key
FROM sms_outbox_old.jobs ORDER BY id;
-- Not held: the first worker holds again what a pause holds back.

INSERT INTO sms_outbox.attempt_log (
    job_id, token, observer, attempt, counted, worker, started_at, recorded_at, duration_ms, progress, http_status,
    provider_code, error_class, error_message, order_id, late)
SELECT
    job_id, token, observer, attempt, counted, worker, started_at, recorded_at, duration_ms, progress, http_status,
    provider_code, error_class, error_message, order_id, late
FROM sms_outbox_old.attempt_log ORDER BY id;

INSERT INTO sms_outbox.pauses (
    account, scope, sender, error_class, error_code, reason, paused_by, since, until, probe_at, consecutive_failures, ended_at,
    ended_by)
SELECT
    account, scope, sender, error_class, error_code, reason, paused_by, since, until, probe_at, strikes, ended_at, ended_by
FROM sms_outbox_old.pauses;

INSERT INTO sms_outbox.reconciliation_tasks (
    job_id, token, account, begun_at, next_at, scans, clean_scans, outcome, candidates, note)
SELECT job_id, token, account, begun_at, next_at, scans, clean_scans, outcome, candidates, note
FROM sms_outbox_old.searches;

COMMIT;
