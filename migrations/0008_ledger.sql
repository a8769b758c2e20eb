-- The ledger: double entry, append-only. Every movement has a reference of its own, so that what is repeated is refused
-- by the constraint and not by a look beforehand; its entries add up to zero, and a balance is the sum of an account's
-- entries. Accounts: `credit:<payer>` and `allowance:<payer>` (what a payer has), `owed:<payer>` (what calls cost of a
-- payer who pays later; goes below zero), and those of the house, where everything comes from or goes to.

CREATE TABLE ledger_accounts (
    id text PRIMARY KEY,
    balance_usd numeric(24, 12) NOT NULL DEFAULT 0,
    grace_usd numeric(24, 12) NOT NULL DEFAULT 0 CHECK (grace_usd >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ledger_account_not_overdrawn CHECK (
        balance_usd >= -grace_usd OR NOT (id LIKE 'credit:%' OR id LIKE 'allowance:%'))
);

CREATE TABLE ledger_movements (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ref text NOT NULL UNIQUE,
    kind text NOT NULL,
    payer text NOT NULL,
    description text NOT NULL DEFAULT '',
    metadata jsonb NOT NULL DEFAULT '{}',
    created_by text NOT NULL DEFAULT 'system',
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ledger_movements_payer ON ledger_movements (payer, id);

-- Without foreign keys: they would cost more than the entries, and `gatewayz ledger verify` proves what they would say.
CREATE TABLE ledger_entries (
    account text NOT NULL,
    seq bigint GENERATED ALWAYS AS IDENTITY,
    movement_id bigint NOT NULL,
    amount_usd numeric(24, 12) NOT NULL,
    balance_after numeric(24, 12) NOT NULL,
    PRIMARY KEY (account, seq)
);
CREATE INDEX ledger_entries_movement ON ledger_entries (movement_id);

CREATE FUNCTION refuse_ledger_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only';
END $$;
CREATE TRIGGER ledger_movements_append_only BEFORE UPDATE OR DELETE ON ledger_movements
    FOR EACH ROW EXECUTE FUNCTION refuse_ledger_change();
CREATE TRIGGER ledger_movements_not_emptied BEFORE TRUNCATE ON ledger_movements
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_ledger_change();
CREATE TRIGGER ledger_entries_append_only BEFORE UPDATE OR DELETE ON ledger_entries
    FOR EACH ROW EXECUTE FUNCTION refuse_ledger_change();
CREATE TRIGGER ledger_entries_not_emptied BEFORE TRUNCATE ON ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_ledger_change();

-- All entries of a movement are written by one statement, and each statement must balance.
CREATE FUNCTION check_ledger_sums() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM added GROUP BY movement_id HAVING sum(amount_usd) <> 0) THEN
        RAISE EXCEPTION 'the entries of a movement do not add up to zero' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER ledger_entries_sum AFTER INSERT ON ledger_entries
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION check_ledger_sums();

-- What users were given before there was a ledger.
INSERT INTO ledger_accounts (id, balance_usd)
    SELECT 'credit:user:' || id, credit_usd FROM users WHERE credit_usd > 0
    UNION ALL SELECT 'house:grants', -sum(credit_usd) FROM users WHERE credit_usd > 0 HAVING count(*) > 0;
INSERT INTO ledger_movements (ref, kind, payer, description)
    SELECT 'opening:' || id, 'admin_credit', 'user:' || id, 'opening balance' FROM users WHERE credit_usd > 0 ORDER BY id;
INSERT INTO ledger_entries (movement_id, account, amount_usd, balance_after)
    SELECT m.id, 'credit:' || m.payer, u.credit_usd, u.credit_usd
    FROM ledger_movements m JOIN users u ON m.payer = 'user:' || u.id
    UNION ALL SELECT m.id, 'house:grants', -u.credit_usd, -sum(u.credit_usd) OVER (ORDER BY m.id)
    FROM ledger_movements m JOIN users u ON m.payer = 'user:' || u.id
    ORDER BY 1;
UPDATE users SET prepaid = true WHERE credit_usd > 0;
ALTER TABLE users DROP COLUMN credit_usd;
