-- What workers promise about their own writing. In production every insert of every producer would pay for it.
ALTER TABLE sms_outbox.jobs
    ADD CONSTRAINT jobs_status_known CHECK (
        status IN ('queued', 'sending', 'sent', 'split', 'failed', 'uncertain', 'expired', 'cancelled')),
    ADD CONSTRAINT jobs_error_class_known CHECK (
        error_class IN ('auth', 'balance', 'account', 'sender', 'recipients', 'content', 'iys', 'schedule', 'request',
                        'rate_limited', 'unavailable', 'network', 'timeout', 'unknown')),
    ADD CONSTRAINT jobs_finished_exactly_when_final CHECK (
        (finished_at IS NOT NULL) = (status IN ('sent', 'split', 'failed', 'expired', 'cancelled'))),
    ADD CONSTRAINT jobs_sent_at_exactly_when_sent CHECK ((sent_at IS NOT NULL) = (status = 'sent')),
    ADD CONSTRAINT jobs_leased_exactly_when_sending CHECK ((lease_until IS NOT NULL) = (status = 'sending')),
    ADD CONSTRAINT jobs_failed_has_a_class CHECK (status <> 'failed' OR error_class IS NOT NULL),
    ADD CONSTRAINT jobs_uncertain_is_indeterminate CHECK (status <> 'uncertain' OR ambiguous_since IS NOT NULL),
    ADD CONSTRAINT jobs_order_id_only_when_sent CHECK (order_id IS NULL OR status = 'sent'),
    ADD CONSTRAINT jobs_duplicate_only_when_sent CHECK (status = 'sent' OR NOT duplicate),
    ADD CONSTRAINT jobs_duplicate_of_only_for_a_duplicate CHECK (duplicate OR duplicate_of IS NULL),
    ADD CONSTRAINT jobs_attempt_not_negative CHECK (attempt >= 0),
    ADD CONSTRAINT jobs_held_known CHECK (held IN ('sender', 'iys'));
