-- The limit, so that orders of several recipients leave evenly too, and that a worker which hears from the database late costs
-- the others nothing.
--
-- Until now the ring held what was granted in each 10 ms, and one window for all: the widest that anyone had asked for in the
-- last seconds. A single slow answer made it a tenth wider for three seconds. And no slot lay before one that was reserved, so
-- that orders of several recipients gathered in one burst a second. Now the ring holds what counts in each 10 ms, and every
-- slot counts for as long as it itself was reserved for.
ALTER TABLE sms_outbox.rate_rings
    ADD COLUMN held integer[] NOT NULL DEFAULT '{}',
    ADD COLUMN last bigint NOT NULL DEFAULT 0;
-- The same slots, each under the widest window that still had to be minded. Nobody reserves meanwhile: the table is locked.
UPDATE sms_outbox.rate_rings AS ring
SET last = first + cardinality(granted) - 1,
    held = coalesce((
        SELECT array_agg((
            SELECT coalesce(sum(g), 0)::integer FROM unnest(granted[greatest(n - widest + 1, 1) : n]) AS g) ORDER BY n)
        FROM generate_series(1, cardinality(granted) + widest) AS n), '{}');
ALTER TABLE sms_outbox.rate_rings DROP COLUMN granted, DROP COLUMN widest, DROP COLUMN widest_to;
COMMENT ON COLUMN sms_outbox.rate_rings.first IS 'Number of the 10 ms since 1970 that held[1] stands for.';
COMMENT ON COLUMN sms_outbox.rate_rings.held IS
    'Recipients that count in each 10 ms: those that may leave in it or did in the second before, and who was allowed to be late '
    'for as much longer.';
COMMENT ON COLUMN sms_outbox.rate_rings.last IS 'Number of the last 10 ms that anything was reserved in.';

CREATE OR REPLACE FUNCTION sms_outbox.reserve_slots(
    p_account text, p_limit integer, p_window integer, p_horizon integer, p_weights integer[], p_urgent boolean[])
RETURNS TABLE (place integer, wait_us integer)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now     bigint;      -- microseconds since 1970
    v_bucket  bigint;      -- the 10 ms we are in
    v_ring    sms_outbox.rate_rings;
    v_held    integer[];   -- place 1 is the 10 ms we are in
    v_last    integer;     -- behind this place nothing begins to count any more
    v_weight  integer;
    v_room    integer;     -- what may be held already where this one is put
    v_reach   integer;     -- the last place that may be reserved
    v_at      integer;
    v_place   integer;
    v_lost    integer := 2147483647;  -- the least weight for which no place was found
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
        INSERT INTO sms_outbox.rate_rings (account, first) VALUES (p_account, 0) ON CONFLICT DO NOTHING;
        SELECT * INTO v_ring FROM sms_outbox.rate_rings WHERE account = p_account FOR UPDATE;
    END IF;

    -- Read after the lock: time spent waiting for it must not make slots look later than they are.
    v_now := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    v_bucket := v_now / 10000;
    IF v_ring.first > v_bucket THEN
        -- The clock was set back. What counts goes on counting for as long as it would have.
        v_ring.last := v_ring.last - (v_ring.first - v_bucket);
        v_ring.paced_to := least(v_ring.paced_to, v_now);
        v_ring.first := v_bucket;
    END IF;
    v_held := v_ring.held[least(v_bucket - v_ring.first, cardinality(v_ring.held))::integer + 1 :];
    IF cardinality(v_held) < 2 * p_window + p_horizon THEN
        v_held := v_held || array_fill(0, ARRAY[2 * p_window + p_horizon - cardinality(v_held)]);
    END IF;
    v_last := greatest(v_ring.last - v_bucket + 1, 1)::integer;

    FOR i IN 1 .. cardinality(p_weights) LOOP
        -- A job above the limit by itself waits for an empty second and then pays for the following ones through the pace.
        v_weight := least(p_weights[i], p_limit);
        CONTINUE WHEN v_weight >= v_lost AND NOT p_urgent[i];
        v_at := 1;
        v_room := p_limit - v_weight;
        v_reach := 1 + p_horizon;
        IF NOT p_urgent[i] THEN
            v_at := 1 + least(greatest(v_ring.paced_to / 10000 - v_bucket, 0), v_reach)::integer;
            CONTINUE WHEN v_at > v_reach;
            IF v_weight > 1 THEN
                -- A second that many have filled to the brim would keep an urgent message waiting until several of them have
                -- passed. Single ones leave a place free every few milliseconds.
                v_room := greatest(v_room - p_limit / 100, 0);
            END IF;
        END IF;
        IF p_urgent[i] OR (v_weight > 1 AND v_last <= v_reach) THEN
            -- Needs a gap that single messages would fill for ever: one at a time reserves up to a window ahead. Others go
            -- before it as far as they leave room for it.
            v_reach := v_reach + p_window - 1;
        END IF;
        v_place := v_at;
        WHILE v_at <= v_reach AND v_place <= greatest(v_at, v_last) LOOP
            IF v_held[v_place] > v_room THEN
                v_at := v_place + 1;
            END IF;
            v_place := v_place + 1;
        END LOOP;
        IF v_at > v_reach THEN
            v_lost := v_weight;
            CONTINUE;
        END IF;

        FOR n IN v_at .. v_at + p_window - 1 LOOP
            v_held[n] := v_held[n] + v_weight;
        END LOOP;
        v_last := greatest(v_last, v_at);
        v_any := true;
        place := i;
        wait_us := ((v_bucket + v_at - 1) * 10000 - v_now)::integer;
        RETURN NEXT;
        -- Several recipients seldom fit where the pace puts them. They may catch up with what they wait for that, up to a fifth
        -- of a window, or it would be lost for good; single ones with little, because what leaves in a burst leaves none for
        -- urgent messages when its second is over.
        v_ring.paced_to := greatest(
                v_ring.paced_to, (v_bucket + v_at - 1) * 10000 - least(v_weight, 5) * 400::bigint * p_window)
            + p_weights[i]::bigint * p_window * 10000 / p_limit;
    END LOOP;

    IF v_any THEN
        UPDATE sms_outbox.rate_rings
        SET first = v_bucket, held = v_held, last = v_bucket + v_last - 1, paced_to = v_ring.paced_to
        WHERE account = p_account;
    END IF;
END
$$;
COMMENT ON FUNCTION sms_outbox.reserve_slots(text, integer, integer, integer, integer[], boolean[]) IS
    'Reserves moments at which messages of the given weights (recipients) may leave, such that no p_window consecutive 10 ms '
    'hold more than p_limit recipients over all workers. Returns, for those that fit before p_horizon further 10 ms have passed '
    '(urgent ones, and one of several recipients at a time: a window later), their place in the list and the microseconds until '
    'their 10 ms begin (negative: they have begun). Urgent ones skip the even pacing, never the limit.';
