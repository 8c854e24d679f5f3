-- The bare loop's own table: what it needs and nothing else. Recording changes no column that an index names, so that it can
-- stay on the page.
CREATE TABLE bare_jobs (
    id         bigint      NOT NULL PRIMARY KEY,
    sender     text        NOT NULL,
    recipient  text        NOT NULL,
    body       text        NOT NULL,
    claimed_at timestamptz,
    order_id   text,
    done_at    timestamptz
) WITH (fillfactor = 50);
CREATE INDEX bare_jobs_waiting ON bare_jobs (id) WHERE claimed_at IS NULL;
