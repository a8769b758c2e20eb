-- What subscriptions give a payer stands in one row, and the payer's plan term follows it. Which payment paid which invoice,
-- and what of an invoice's allowance was taken back because the invoice was given back.
ALTER TABLE stripe_standings
    ADD COLUMN allowance_usd numeric(24, 12) NOT NULL DEFAULT 0,
    ADD COLUMN allowance_until bigint,
    ADD COLUMN ends_at bigint;
ALTER TABLE stripe_invoices
    ADD COLUMN period_start bigint,
    ADD COLUMN taken_usd numeric(24, 12) NOT NULL DEFAULT 0,
    ADD COLUMN really_taken_usd numeric(24, 12) NOT NULL DEFAULT 0,
    ADD COLUMN steps integer NOT NULL DEFAULT 0;
CREATE TABLE stripe_invoice_payments (
    intent_id text NOT NULL,
    invoice_id text NOT NULL,
    PRIMARY KEY (intent_id, invoice_id)
);
CREATE INDEX stripe_invoice_payments_invoice ON stripe_invoice_payments (invoice_id);

UPDATE stripe_standings s SET allowance_until = s.period_end, allowance_usd = (
    SELECT coalesce(sum(i.allowance_usd), 0) FROM stripe_invoices i WHERE i.payer = s.payer
        AND i.subscription_id = s.subscription_id AND i.period_end = s.period_end AND i.booked IN ('set', 'added'))
    WHERE s.subscription_id <> '';
UPDATE plan_terms t SET allowance_usd = s.allowance_usd, allowance_until = to_timestamp(s.allowance_until)
    FROM stripe_standings s WHERE s.payer = t.payer AND t.source = 'stripe' AND s.plan = t.plan;
