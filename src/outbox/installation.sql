-- Which database was noted as the one to send from, if any was, and which this is. One row.
SELECT noted.system_identifier AS noted_system_identifier, noted.timeline AS noted_timeline,
       noted.database_oid AS noted_database_oid, noted.database_name AS noted_database_name,
       noted.jobs_oid AS noted_jobs_oid, noted.promotions, noted.noted_by,
       to_char(noted.noted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS noted_at,
       present.system_identifier, present.timeline, present.database_oid, present.database_name,
       present.jobs_oid, pg_is_in_recovery() AS standby
FROM sms_outbox.present_installation() AS present
LEFT JOIN sms_outbox.installation AS noted ON true
