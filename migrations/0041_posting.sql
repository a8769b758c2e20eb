-- What calls cost is posted in time that grows with their number, not with its square: which records are new is looked
-- up by hash, what no running call holds is not looked for, and lost calls only where any was ever charged for.

CREATE INDEX ledger_movements_lost ON ledger_movements (ref) WHERE kind = 'lost_call';
-- What calls cost is posted in time that grows with their number, not with its square: which records are new is looked
-- up by hash, and what no running call holds is not looked for.

CREATE OR REPLACE FUNCTION post_calls(p_records jsonb, p_new text[], p_grace numeric)
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
        SELECT DISTINCT ON (g.id) g.id, g.payer, coalesce(g.prepaid, false) AS prepaid, g.lease AS worker,
            round(g.cost_usd, 12) AS cost, coalesce(g.purses, '[]') AS purses
        FROM ROWS FROM (jsonb_to_recordset(p_records) AS (
            id text, payer text, prepaid boolean, lease text, cost_usd numeric, purses jsonb)) WITH ORDINALITY
            AS g (id, payer, prepaid, lease, cost_usd, purses, place)
        JOIN unnest(p_new) AS n (id) ON n.id = g.id WHERE g.payer <> '' ORDER BY g.id, g.place) AS r;
    IF ids IS NULL THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT 1 FROM open_holds) THEN
        DELETE FROM open_holds WHERE call_id = ANY (ids);
    END IF;
    IF EXISTS (SELECT 1 FROM ledger_movements WHERE kind = 'lost_call') THEN
        PERFORM correct_lost_calls(ids);
    END IF;

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
