-- Pins this database as the one to send from. What is pinned already is not changed, except for a timeline that a promotion has
-- made which was meant: it is passed over once.
--   $1 by   $2 provider (null: not known)
INSERT INTO sms_outbox.database_identity AS pinned
    (system_identifier, timeline, database_oid, database_name, jobs_oid, pinned_by, provider_url)
SELECT system_identifier, timeline, database_oid, database_name, jobs_oid, $1, $2
FROM sms_outbox.current_database_identity()
ON CONFLICT (one) DO UPDATE
SET system_identifier = coalesce(pinned.system_identifier, excluded.system_identifier),
    timeline = CASE WHEN pinned.promotion_until > now() THEN greatest(pinned.timeline, excluded.timeline)
                    ELSE coalesce(pinned.timeline, excluded.timeline) END,
    promotion_until = CASE WHEN excluded.timeline > pinned.timeline THEN NULL ELSE pinned.promotion_until END,
    database_oid = coalesce(pinned.database_oid, excluded.database_oid),
    database_name = coalesce(pinned.database_name, excluded.database_name),
    provider_url = coalesce(pinned.provider_url, excluded.provider_url)
