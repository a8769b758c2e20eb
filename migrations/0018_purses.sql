-- Purses: what calls must be covered by, a payer's credit or a budget of a span. Workers take leases from them, so that
-- a call does not wait for the database; what is free is what a purse holds less what is leased. Calls are posted here
-- in the transaction that stores their records.

CREATE TABLE purses (
    id text PRIMARY KEY,                        -- credit:<payer> or budget:...
    limit_usd numeric(24, 12),                  -- of a budget
    spent_usd numeric(24, 12) NOT NULL DEFAULT 0,
    alert_at numeric[] NOT NULL DEFAULT '{}',   -- shares of the limit at which somebody is told
    alerted numeric NOT NULL DEFAULT 0,         -- the highest of them that was told
    owner text NOT NULL DEFAULT '',             -- user:<id> or team:<id>: who is told
    scarce_until timestamptz NOT NULL DEFAULT '-infinity',
    ends_at timestamptz                         -- when a budget's span is over
);
CREATE INDEX purses_ends ON purses (ends_at) WHERE ends_at IS NOT NULL;

CREATE TABLE lease_workers (
    worker text PRIMARY KEY,                    -- the id of its journal, and a number when it had to begin anew
    renewed_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE leases (
    purse text NOT NULL,
    worker text NOT NULL REFERENCES lease_workers (worker) ON DELETE CASCADE,
    amount_usd numeric(24, 12) NOT NULL,        -- below zero: its calls cost more than it had
    recalled boolean NOT NULL DEFAULT false,
    turn bigint NOT NULL DEFAULT 0,             -- the worker's number for the last change that it asked for,
    change_usd numeric(24, 12) NOT NULL DEFAULT 0, -- and what that was: of an answer that got lost
    PRIMARY KEY (purse, worker)
);
CREATE INDEX leases_worker ON leases (worker);
CREATE INDEX leases_recalled ON leases (worker) WHERE recalled;

-- What running calls hold, for `lost_call: charge_hold` only.
CREATE TABLE open_holds (
    call_id text PRIMARY KEY,
    worker text NOT NULL REFERENCES lease_workers (worker) ON DELETE CASCADE,
    payer text NOT NULL,
    prepaid boolean NOT NULL,
    amount_usd numeric(24, 12) NOT NULL
);
CREATE INDEX open_holds_worker ON open_holds (worker);

ALTER TABLE api_keys ADD COLUMN budgets jsonb NOT NULL DEFAULT '[]';
ALTER TABLE users ADD COLUMN budgets jsonb NOT NULL DEFAULT '[]';
ALTER TABLE teams ADD COLUMN budgets jsonb NOT NULL DEFAULT '[]';

-- What a purse holds: a payer's balances, or what is left of a budget.
CREATE FUNCTION purse_total(p purses) RETURNS numeric LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN p.id LIKE 'credit:%' THEN (
        SELECT coalesce(sum(balance_usd), 0) FROM ledger_accounts
        WHERE id IN (p.id, 'allowance:' || substr(p.id, 8)))
    ELSE p.limit_usd - p.spent_usd END
$$;

-- Take at least `p_need` and at most `p_want` of a purse for a worker. Where too little is free nothing is taken and
-- the others are asked for what they do not use. Told are: what was taken (null: the worker was closed), what is free
-- then, what the purse holds, and which change of this lease was the last. The same turn twice takes once.
CREATE FUNCTION take_lease(
    p_purse text, p_worker text, p_turn bigint, p_need numeric, p_want numeric, p_limit numeric, p_alert_at numeric[],
    p_owner text, p_ends_at timestamptz, p_key text,
    OUT taken numeric, OUT free numeric, OUT total numeric, OUT last_turn bigint, OUT last_change numeric
) LANGUAGE plpgsql AS $$
DECLARE
    found_purse purses;
BEGIN
    PERFORM 1 FROM lease_workers WHERE worker = p_worker FOR KEY SHARE;
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
    SELECT turn, change_usd INTO last_turn, last_change FROM leases WHERE purse = p_purse AND worker = p_worker;
    taken := 0;
    IF p_need <= 0 THEN
        RETURN;  -- only a look
    END IF;
    IF last_turn = p_turn THEN
        taken := last_change;
        RETURN;
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

-- Give back what is not used of a lease; the same turn twice gives once.
CREATE FUNCTION return_lease(p_purse text, p_worker text, p_turn bigint, p_amount numeric)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM purses WHERE id = p_purse FOR UPDATE;
    UPDATE leases SET amount_usd = amount_usd - p_amount, recalled = false, turn = p_turn, change_usd = -p_amount
        WHERE purse = p_purse AND worker = p_worker AND turn <> p_turn;
END $$;

-- Charge payers, each cost as one movement: the allowance first, then credit down to the grace, the rest is the house's
-- loss; who pays later owes it. A reference that is there is passed over. Told is what was written off.
CREATE FUNCTION charge_payers(
    p_refs text[], p_kind text, p_payers text[], p_prepaid boolean[], p_costs numeric[], p_grace numeric
) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    movements bigint[]; payers text[]; prepaid boolean[]; costs numeric[];
    accounts text[];
    lost numeric;
BEGIN
    WITH given AS (
        SELECT * FROM unnest(p_refs, p_payers, p_prepaid, p_costs) WITH ORDINALITY AS u (ref, payer, prepaid, cost, place)
    ), added AS (
        INSERT INTO ledger_movements (ref, kind, payer, created_by)
            SELECT given.ref, p_kind, given.payer, 'gateway' FROM given ORDER BY given.place
            ON CONFLICT (ref) DO NOTHING RETURNING ledger_movements.id, ledger_movements.ref
    )
    SELECT array_agg(added.id ORDER BY added.id), array_agg(given.payer ORDER BY added.id),
        array_agg(given.prepaid ORDER BY added.id), array_agg(given.cost ORDER BY added.id)
    INTO movements, payers, prepaid, costs FROM added JOIN given ON given.ref = added.ref;
    IF movements IS NULL THEN
        RETURN 0;
    END IF;

    SELECT array_agg(DISTINCT account ORDER BY account) INTO accounts FROM (
        SELECT unnest(CASE WHEN u.prepaid THEN ARRAY['allowance:' || u.payer, 'credit:' || u.payer]
            ELSE ARRAY['owed:' || u.payer] END) AS account
        FROM unnest(payers, prepaid) AS u (payer, prepaid)
        UNION ALL VALUES ('house:usage'), ('house:written_off')) AS named;
    INSERT INTO ledger_accounts (id) SELECT unnest(accounts) ON CONFLICT DO NOTHING;
    PERFORM 1 FROM ledger_accounts WHERE id = ANY (accounts) ORDER BY id FOR UPDATE;
    UPDATE ledger_accounts SET grace_usd = p_grace
        WHERE id = ANY (accounts) AND id LIKE 'credit:%' AND grace_usd < p_grace;

    WITH spent AS (
        SELECT u.movement, u.payer, u.cost, sum(u.cost) OVER (PARTITION BY u.payer ORDER BY u.movement) AS until,
            greatest(a.balance_usd, 0) AS allowance,
            greatest(a.balance_usd, 0) + greatest(c.balance_usd + c.grace_usd, 0) AS most
        FROM unnest(movements, payers, prepaid, costs) AS u (movement, payer, prepaid, cost)
        JOIN ledger_accounts a ON a.id = 'allowance:' || u.payer
        JOIN ledger_accounts c ON c.id = 'credit:' || u.payer
        WHERE u.prepaid
    ), parts AS (
        SELECT movement, payer, cost,
            least(until, allowance) - least(until - cost, allowance) AS from_allowance,
            least(until, most) - least(until - cost, most) AS from_both
        FROM spent
    ), moved AS (
        SELECT movement, 'allowance:' || payer AS account, -from_allowance AS amount FROM parts
        UNION ALL SELECT movement, 'credit:' || payer, from_allowance - from_both FROM parts
        UNION ALL SELECT movement, 'house:written_off', from_both - cost FROM parts
        UNION ALL SELECT u.movement, 'owed:' || u.payer, -u.cost
            FROM unnest(movements, payers, prepaid, costs) AS u (movement, payer, prepaid, cost) WHERE NOT u.prepaid
        UNION ALL SELECT u.movement, 'house:usage', u.cost FROM unnest(movements, costs) AS u (movement, cost)
    ), booked AS (
        INSERT INTO ledger_entries (movement_id, account, amount_usd, balance_after)
            SELECT m.movement, m.account, m.amount,
                b.balance_usd + sum(m.amount) OVER (PARTITION BY m.account ORDER BY m.movement)
            FROM moved m JOIN ledger_accounts b ON b.id = m.account WHERE m.amount <> 0 ORDER BY m.movement
            RETURNING ledger_entries.account, ledger_entries.amount_usd
    ), sums AS (
        SELECT booked.account, sum(booked.amount_usd) AS amount FROM booked GROUP BY booked.account
    ), kept AS (
        UPDATE ledger_accounts SET balance_usd = balance_usd + sums.amount
            FROM sums WHERE ledger_accounts.id = sums.account RETURNING ledger_accounts.id
    )
    SELECT coalesce(sum(-sums.amount), 0) INTO lost FROM sums WHERE sums.account = 'house:written_off';
    RETURN lost;
END $$;

-- Take back what was charged for calls that were thought lost and whose records have come.
CREATE FUNCTION correct_lost_calls(p_calls text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    lost record;
    movement bigint;
BEGIN
    FOR lost IN SELECT * FROM ledger_movements WHERE ref = ANY (
        SELECT 'lost:' || call FROM unnest(p_calls) AS call) ORDER BY id LOOP
        INSERT INTO ledger_movements (ref, kind, payer, created_by)
            VALUES ('adjust:' || substr(lost.ref, 6), 'adjustment', lost.payer, 'gateway')
            ON CONFLICT (ref) DO NOTHING RETURNING id INTO movement;
        CONTINUE WHEN movement IS NULL;
        PERFORM 1 FROM ledger_accounts WHERE id IN (SELECT account FROM ledger_entries WHERE movement_id = lost.id)
            ORDER BY id FOR UPDATE;
        WITH moved AS (
            UPDATE ledger_accounts a SET balance_usd = a.balance_usd - e.amount_usd
                FROM ledger_entries e WHERE e.movement_id = lost.id AND e.account = a.id
                RETURNING a.id, -e.amount_usd AS amount, a.balance_usd)
        INSERT INTO ledger_entries (movement_id, account, amount_usd, balance_after)
            SELECT movement, id, amount, balance_usd FROM moved;
    END LOOP;
END $$;

-- Post the calls of records that were stored just now (`p_new`), in the transaction that stored them. Told are
-- budgets that have reached a share at which somebody is told, and, in a row without a purse, what was written off.
CREATE FUNCTION post_calls(p_records jsonb, p_new text[], p_grace numeric)
RETURNS TABLE (purse text, share numeric, spent numeric, most numeric, owner text, lost numeric)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    ids text[]; payers text[]; prepaid boolean[]; costs numeric[]; workers text[]; named jsonb[];
    places text[];
    written_off numeric;
BEGIN
    SELECT array_agg(r.id), array_agg(r.payer), array_agg(r.prepaid), array_agg(r.cost), array_agg(r.worker),
        array_agg(r.purses)
    INTO ids, payers, prepaid, costs, workers, named FROM (
        SELECT DISTINCT ON (e.record ->> 'id') e.record ->> 'id' AS id, e.record ->> 'payer' AS payer,
            coalesce((e.record ->> 'prepaid')::boolean, false) AS prepaid, e.record ->> 'lease' AS worker,
            round((e.record ->> 'cost_usd')::numeric, 12) AS cost, coalesce(e.record -> 'purses', '[]') AS purses
        FROM jsonb_array_elements(p_records) WITH ORDINALITY AS e (record, place)
        WHERE e.record ->> 'id' = ANY (p_new) AND e.record ->> 'payer' <> ''
        ORDER BY e.record ->> 'id', e.place) AS r;
    IF ids IS NULL THEN
        RETURN;
    END IF;
    DELETE FROM open_holds WHERE call_id = ANY (ids);
    PERFORM correct_lost_calls(ids);

    SELECT array_agg(DISTINCT p.id ORDER BY p.id) INTO places
        FROM unnest(named, costs) AS u (purses, cost) CROSS JOIN LATERAL jsonb_array_elements_text(u.purses) AS p (id)
        WHERE u.cost > 0;
    IF places IS NOT NULL THEN
        INSERT INTO purses (id) SELECT unnest(places) ON CONFLICT DO NOTHING;
        PERFORM 1 FROM purses WHERE id = ANY (places) ORDER BY id FOR UPDATE;
        UPDATE leases SET amount_usd = leases.amount_usd - s.cost FROM (
            SELECT p.id, u.worker, sum(u.cost) AS cost FROM unnest(named, costs, workers) AS u (purses, cost, worker)
            CROSS JOIN LATERAL jsonb_array_elements_text(u.purses) AS p (id) WHERE u.cost > 0 GROUP BY 1, 2) AS s
            WHERE leases.purse = s.id AND leases.worker = s.worker;
        RETURN QUERY UPDATE purses SET spent_usd = purses.spent_usd + s.cost,
                alerted = greatest(purses.alerted, s.reached)
            FROM (SELECT was.id, was.alerted, x.cost, coalesce((SELECT max(each) FROM unnest(was.alert_at) AS each
                    WHERE each * was.limit_usd <= was.spent_usd + x.cost), 0) AS reached
                FROM purses was JOIN (
                    SELECT p.id, sum(u.cost) AS cost FROM unnest(named, costs) AS u (purses, cost)
                    CROSS JOIN LATERAL jsonb_array_elements_text(u.purses) AS p (id)
                    WHERE u.cost > 0 AND p.id LIKE 'budget:%' GROUP BY 1) AS x ON x.id = was.id) AS s
            WHERE purses.id = s.id
            RETURNING CASE WHEN s.reached > s.alerted THEN purses.id END, s.reached, purses.spent_usd,
                purses.limit_usd, purses.owner, 0::numeric;
    END IF;

    SELECT array_agg('call:' || u.id), array_agg(u.payer), array_agg(u.prepaid), array_agg(u.cost)
        INTO ids, payers, prepaid, costs FROM unnest(ids, payers, prepaid, costs) AS u (id, payer, prepaid, cost)
        WHERE u.cost > 0;
    IF ids IS NOT NULL THEN
        written_off := charge_payers(ids, 'api_usage', payers, prepaid, costs, p_grace);
        IF written_off > 0 THEN
            RETURN QUERY SELECT NULL::text, 0::numeric, 0::numeric, 0::numeric, ''::text, written_off;
        END IF;
    END IF;
END $$;

-- Close what a dead worker had. Holds that it wrote down are charged; records that appear later correct that.
CREATE FUNCTION close_lease_worker(p_worker text, p_grace numeric) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    refs text[]; payers text[]; prepaid boolean[]; costs numeric[];
    places text[];
    lost numeric := 0;
BEGIN
    PERFORM 1 FROM lease_workers WHERE worker = p_worker FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    SELECT array_agg('lost:' || h.call_id), array_agg(h.payer), array_agg(h.prepaid), array_agg(h.amount_usd)
        INTO refs, payers, prepaid, costs FROM open_holds h WHERE h.worker = p_worker AND NOT EXISTS (
            SELECT 1 FROM call_records c WHERE c.id = h.call_id AND c.status <> 'interrupted');
    SELECT array_agg(DISTINCT purse ORDER BY purse) INTO places FROM leases WHERE worker = p_worker;
    PERFORM 1 FROM purses WHERE id = ANY (places) ORDER BY id FOR UPDATE;
    IF refs IS NOT NULL THEN
        lost := charge_payers(refs, 'lost_call', payers, prepaid, costs, p_grace);
    END IF;
    DELETE FROM lease_workers WHERE worker = p_worker;
    RETURN lost;
END $$;
