UPDATE bare_jobs AS job SET order_id = answer.order_id, done_at = now()
FROM unnest($1::bigint[], $2::text[]) AS answer (id, order_id)
WHERE job.id = answer.id
