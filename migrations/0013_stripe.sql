-- Payments. What Stripe tells is kept as facts (payments, charges, disputes, subscriptions, invoices), newest version of
-- each, in whatever order it is told; what follows from the facts is booked in the ledger once and remembered beside them.

CREATE TABLE stripe_customers (
    payer text PRIMARY KEY,
    customer_id text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- One row for each thing to be paid, written before Stripe is asked: its id is the idempotency key there.
CREATE TABLE payments (
    id text PRIMARY KEY,
    payer text NOT NULL,
    user_id text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('checkout', 'intent', 'top_up', 'subscription')),
    ref text UNIQUE,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN (
        'pending', 'failed', 'expired', 'canceled', 'completed', 'partially_refunded', 'refunded', 'disputed')),
    currency text NOT NULL,
    amount_cents bigint NOT NULL CHECK (amount_cents >= 0),
    credit_usd numeric(24, 12) NOT NULL CHECK (credit_usd >= 0),
    package text NOT NULL DEFAULT '',
    description text NOT NULL DEFAULT '',
    metadata jsonb NOT NULL DEFAULT '{}',
    customer_id text NOT NULL DEFAULT '',
    session_id text UNIQUE,
    intent_id text UNIQUE,
    -- what Stripe told
    paid_cents bigint,
    paid_currency text NOT NULL DEFAULT '',
    paid_at timestamptz,
    failure text NOT NULL DEFAULT '',
    failure_told_at bigint NOT NULL DEFAULT 0,
    -- what was booked: credit given, what of it was to be taken back, and what of that was still there
    granted_usd numeric(24, 12),
    taken_usd numeric(24, 12) NOT NULL DEFAULT 0,
    really_taken_usd numeric(24, 12) NOT NULL DEFAULT 0,
    steps integer NOT NULL DEFAULT 0,
    flag text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX payments_payer ON payments (payer, created_at);
CREATE INDEX payments_flag ON payments (created_at) WHERE flag <> '';

CREATE TABLE stripe_charges (
    charge_id text PRIMARY KEY,
    intent_id text NOT NULL,
    refunded_cents bigint NOT NULL,
    told_at bigint NOT NULL
);
CREATE INDEX stripe_charges_intent ON stripe_charges (intent_id);
CREATE TABLE stripe_disputes (
    dispute_id text PRIMARY KEY,
    intent_id text NOT NULL,
    amount_cents bigint NOT NULL,
    stage integer NOT NULL,
    status text NOT NULL
);
CREATE INDEX stripe_disputes_intent ON stripe_disputes (intent_id);

-- What administrators asked to be given back; a row without an answer is asked again under the same key.
CREATE TABLE refunds (
    id text PRIMARY KEY,
    payment_id text NOT NULL REFERENCES payments (id),
    amount_cents bigint,
    reason text NOT NULL,
    asked_by text NOT NULL,
    refund_id text UNIQUE,
    status text NOT NULL DEFAULT 'pending',
    created_at timestamptz NOT NULL DEFAULT now(),
    answered_at timestamptz
);
CREATE INDEX refunds_payment ON refunds (payment_id);

CREATE TABLE stripe_subscriptions (
    subscription_id text PRIMARY KEY,
    payer text NOT NULL,
    customer_id text NOT NULL,
    status text NOT NULL,
    product_id text NOT NULL,
    price_id text NOT NULL,
    item_id text NOT NULL,
    period_start bigint,
    period_end bigint,
    cancel_at_period_end boolean NOT NULL,
    canceled_at bigint,
    schedule_id text NOT NULL DEFAULT '',
    started_at bigint NOT NULL,
    told_at bigint NOT NULL,
    told_rank integer NOT NULL,
    told_by text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX stripe_subscriptions_payer ON stripe_subscriptions (payer);
CREATE TABLE stripe_invoices (
    invoice_id text PRIMARY KEY,
    subscription_id text NOT NULL,
    payer text NOT NULL,
    stage integer NOT NULL,
    status text NOT NULL,
    plan text NOT NULL,
    allowance_usd numeric(24, 12) NOT NULL,
    period_end bigint NOT NULL,
    paid_cents bigint NOT NULL,
    currency text NOT NULL,
    made_at bigint NOT NULL,
    booked text NOT NULL DEFAULT '' CHECK (booked IN ('', 'set', 'added', 'late'))
);
CREATE INDEX stripe_invoices_payer ON stripe_invoices (payer) WHERE booked = '';
-- What subscriptions give each payer now.
CREATE TABLE stripe_standings (
    payer text PRIMARY KEY,
    plan text NOT NULL DEFAULT '',
    subscription_id text NOT NULL DEFAULT '',
    period_end bigint NOT NULL DEFAULT 0,
    told_at bigint NOT NULL DEFAULT 0
);

-- An event is claimed here in the transaction that does what it tells.
CREATE TABLE stripe_events (
    event_id text PRIMARY KEY,
    type text NOT NULL,
    created bigint NOT NULL,
    object_id text NOT NULL,
    outcome text NOT NULL,
    came_by text NOT NULL DEFAULT 'webhook',
    sealed bytea,
    received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX stripe_events_created ON stripe_events (created);
CREATE INDEX stripe_events_sealed ON stripe_events (received_at) WHERE sealed IS NOT NULL;
-- Events whose handling failed: Stripe repeats them; the row goes when one of the tries succeeds.
CREATE TABLE stripe_event_failures (
    event_id text PRIMARY KEY,
    type text NOT NULL,
    tries integer NOT NULL DEFAULT 1,
    problem text NOT NULL,
    last_at timestamptz NOT NULL DEFAULT now()
);

-- Where their books and ours differ; a finding that is found no more is resolved.
CREATE TABLE payment_findings (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    subject text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}',
    found_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    UNIQUE (kind, subject)
);
