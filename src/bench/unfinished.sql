SELECT EXISTS (SELECT FROM sms_outbox.jobs WHERE status = 'queued')
    OR EXISTS (SELECT FROM sms_outbox.jobs WHERE status = 'sending')
