WITH next AS MATERIALIZED (
    SELECT id FROM bare_jobs WHERE claimed_at IS NULL ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED
)
UPDATE bare_jobs AS job SET claimed_at = now()
FROM next WHERE job.id = next.id
RETURNING job.id, job.sender, job.recipient, job.body
