-- The pinned database identity, if there is one, and the present one. One row.
SELECT pinned.system_identifier AS pinned_system_identifier, pinned.timeline AS pinned_timeline,
       pinned.database_oid AS pinned_database_oid, pinned.database_name AS pinned_database_name,
       pinned.jobs_oid AS pinned_jobs_oid, pinned.promotions, pinned.provider_url AS pinned_provider,
       coalesce(pinned.promotion_until > now(), false) AS promotion_meant, pinned.pinned_by,
       to_char(pinned.pinned_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS pinned_at,
       present.system_identifier, present.timeline, present.database_oid, present.database_name,
       present.jobs_oid, pg_is_in_recovery() AS standby
FROM sms_outbox.current_database_identity() AS present
LEFT JOIN sms_outbox.database_identity AS pinned ON true
