-- A change of a lease whose answer got lost may still be on its way when its worker asks what became of it: whatever the
-- worker was told holds from then on. And a closed worker stays closed: a record that is posted late may begin its lease
-- again, as a debt, but not its name.

ALTER TABLE leases ADD COLUMN given_up_turn bigint NOT NULL DEFAULT 0;  -- changes up to this number come too late
ALTER TABLE lease_workers ADD COLUMN registered boolean NOT NULL DEFAULT true;  -- false: only its debts are here

-- Take at least `p_need` and at most `p_want` of a purse for a worker. Where too little is free nothing is taken and
-- the others are asked for what they do not use. Told are: what was taken (null: the worker was closed), what is free
-- then, what the purse holds, and which change of this lease was the last. The same turn twice takes once. A look that
-- names a turn asks what became of it: when it has not happened by then, it never will.
CREATE OR REPLACE FUNCTION take_lease(
    p_purse text, p_worker text, p_turn bigint, p_need numeric, p_want numeric, p_limit numeric, p_alert_at numeric[],
    p_owner text, p_ends_at timestamptz, p_key text,
    OUT taken numeric, OUT free numeric, OUT total numeric, OUT last_turn bigint, OUT last_change numeric
) LANGUAGE plpgsql AS $$
DECLARE
    found_purse purses;
    given_up bigint;
BEGIN
    PERFORM 1 FROM lease_workers WHERE worker = p_worker AND registered FOR KEY SHARE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT * INTO found_purse FROM purses WHERE id = p_purse FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO purses (id, spent_usd) SELECT p_purse, CASE WHEN p_key <> '' THEN
            (SELECT coalesce(sum(cost_usd), 0) FROM call_records WHERE key_id = p_key) ELSE 0 END
            ON CONFLICT DO NOTHING;
        SELECT * INTO found_purse FROM purses WHERE id = p_purse FOR UPDATE;
    END IF;
    IF p_limit IS NOT NULL
        AND (found_purse.limit_usd IS DISTINCT FROM p_limit OR found_purse.alert_at <> p_alert_at) THEN
        UPDATE purses SET limit_usd = p_limit, alert_at = p_alert_at, owner = p_owner, ends_at = p_ends_at,
            alerted = (SELECT coalesce(max(share), 0) FROM unnest(p_alert_at) AS share
                WHERE share <= alerted AND share * p_limit <= spent_usd)
            WHERE id = p_purse RETURNING * INTO found_purse;
    END IF;
    total := purse_total(found_purse);
    SELECT total - coalesce(sum(greatest(amount_usd, 0)), 0) INTO free FROM leases WHERE purse = p_purse;
    SELECT turn, change_usd, given_up_turn INTO last_turn, last_change, given_up FROM leases WHERE purse = p_purse AND worker = p_worker;
    taken := 0;
    IF p_need <= 0 THEN  -- only a look
        IF p_turn > 0 THEN
            INSERT INTO leases (purse, worker, amount_usd, given_up_turn) VALUES (p_purse, p_worker, 0, p_turn)
                ON CONFLICT (purse, worker) DO UPDATE
                SET given_up_turn = greatest(leases.given_up_turn, excluded.given_up_turn);
        END IF;
        RETURN;
    END IF;
    IF last_turn = p_turn THEN
        taken := last_change;
        RETURN;
    END IF;
    IF p_turn <= greatest(last_turn, given_up) THEN
        RETURN;  -- too late: nobody waits for it
    END IF;
    IF free >= p_need THEN
        taken := p_need;
        IF p_want > p_need AND found_purse.scarce_until < clock_timestamp() THEN
            taken := greatest(p_need, least(p_want, trunc(free / 8, 12)));
        END IF;
        INSERT INTO leases (purse, worker, amount_usd, turn, change_usd)
            VALUES (p_purse, p_worker, taken, p_turn, taken)
            ON CONFLICT (purse, worker) DO UPDATE SET amount_usd = leases.amount_usd + excluded.amount_usd,
                recalled = false, turn = excluded.turn, change_usd = excluded.change_usd;
        free := free - taken;
    ELSE
        UPDATE leases SET recalled = true WHERE purse = p_purse AND worker <> p_worker AND amount_usd > 0
            AND NOT recalled;
        UPDATE purses SET scarce_until = clock_timestamp() + interval '2 s' WHERE id = p_purse;
    END IF;
END $$;

-- Give back what is not used of a lease; the same turn twice gives once, and one that comes too late gives nothing.
CREATE OR REPLACE FUNCTION return_lease(p_purse text, p_worker text, p_turn bigint, p_amount numeric)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM purses WHERE id = p_purse FOR UPDATE;
    UPDATE leases SET amount_usd = amount_usd - p_amount, recalled = false, turn = p_turn, change_usd = -p_amount
        WHERE purse = p_purse AND worker = p_worker AND p_turn > greatest(turn, given_up_turn);
END $$;
