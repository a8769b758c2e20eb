-- What is sold and given: terms of plans, trials, coupons, referrals, what administrators gave, what people want to be told
-- and top-ups; and the work that one of all workers does now and then. Money itself is in the ledger alone.

-- One row for each piece of work; whoever moves `due_at` does it.
CREATE TABLE chores (
    name text PRIMARY KEY,
    due_at timestamptz NOT NULL DEFAULT now(),
    claimed_until timestamptz NOT NULL DEFAULT '-infinity',
    ran_at timestamptz,
    failures integer NOT NULL DEFAULT 0,
    error text NOT NULL DEFAULT ''
);

-- Why a payer has the plan that stands beside its name, until when, and what it brought for which month.
CREATE TABLE plan_terms (
    payer text PRIMARY KEY,
    plan text NOT NULL,
    source text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    ends_at timestamptz,
    falls_back_to text NOT NULL DEFAULT '',
    allowance_usd numeric(24, 12) NOT NULL DEFAULT 0,
    allowance_until timestamptz
);
CREATE INDEX plan_terms_end ON plan_terms (ends_at) WHERE ends_at IS NOT NULL;

-- A trial's numbers are those of the day it began.
CREATE TABLE trials (
    user_id text PRIMARY KEY,
    trial text NOT NULL,
    code text NOT NULL DEFAULT '',
    started_at timestamptz NOT NULL DEFAULT now(),
    ends_at timestamptz NOT NULL,
    credit_usd numeric(24, 12) NOT NULL,
    day_usd numeric(24, 12),
    tokens bigint NOT NULL,
    requests bigint NOT NULL,
    concurrency integer,
    lifted_at timestamptz,
    lifted_by text NOT NULL DEFAULT '',
    closed_at timestamptz
);
CREATE INDEX trials_end ON trials (ends_at) WHERE closed_at IS NULL;
CREATE INDEX trials_code ON trials (code) WHERE code <> '';

-- Who had a trial, as keyed hashes of addresses and identities: they outlive the account. The key is kept encrypted.
CREATE TABLE person_key (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    sealed text NOT NULL
);
CREATE TABLE trial_marks (
    mark bytea PRIMARY KEY,
    made_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE coupons (
    id text PRIMARY KEY,
    code text NOT NULL UNIQUE CHECK (code = upper(code)),
    value_usd numeric(24, 12) NOT NULL CHECK (value_usd > 0),
    scope text NOT NULL CHECK (scope IN ('global', 'user_specific')),
    type text NOT NULL,
    max_uses integer NOT NULL CHECK (max_uses > 0),
    uses integer NOT NULL DEFAULT 0,
    assigned_to text,
    valid_from timestamptz NOT NULL DEFAULT now(),
    valid_until timestamptz,
    active boolean NOT NULL DEFAULT true,
    description text NOT NULL DEFAULT '',
    creator_type text NOT NULL DEFAULT 'admin',
    created_by text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT coupon_uses_left CHECK (uses <= max_uses),
    CONSTRAINT coupon_is_of_one_user CHECK (
        (scope = 'user_specific') = (assigned_to IS NOT NULL) AND (scope = 'global' OR max_uses = 1))
);
CREATE INDEX coupons_assigned ON coupons (assigned_to) WHERE assigned_to IS NOT NULL;
CREATE TABLE coupon_redemptions (
    id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    coupon_id text NOT NULL REFERENCES coupons (id),
    user_id text NOT NULL,
    value_usd numeric(24, 12) NOT NULL,
    balance_before numeric(24, 12) NOT NULL DEFAULT 0,
    balance_after numeric(24, 12) NOT NULL DEFAULT 0,
    address text NOT NULL DEFAULT '',
    agent text NOT NULL DEFAULT '',
    redeemed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (coupon_id, user_id)
);
CREATE INDEX coupon_redemptions_user ON coupon_redemptions (user_id, id);

CREATE TABLE referral_codes (
    code text PRIMARY KEY,
    user_id text NOT NULL UNIQUE,
    max_uses integer NOT NULL,
    uses integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT referral_uses_left CHECK (uses <= max_uses)
);
-- One referrer for each user; what both get, and for what purchase, is what was promised on that day.
CREATE TABLE referrals (
    referee_id text PRIMARY KEY,
    referrer_id text NOT NULL,
    code text NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'completed')),
    referrer_bonus_usd numeric(24, 12) NOT NULL,
    referee_bonus_usd numeric(24, 12) NOT NULL,
    min_purchase_usd numeric(24, 12) NOT NULL,
    purchase_ref text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz,
    CONSTRAINT referral_not_of_oneself CHECK (referee_id <> referrer_id)
);
CREATE INDEX referrals_referrer ON referrals (referrer_id, created_at);

-- What administrators moved by hand; their caps are counted here.
CREATE TABLE credit_grants (
    ref text PRIMARY KEY,
    admin text NOT NULL,
    payer text NOT NULL,
    amount_usd numeric(24, 12) NOT NULL,
    reason text NOT NULL,
    refunds bigint,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX credit_grants_admin ON credit_grants (admin, created_at);
CREATE INDEX credit_grants_refunds ON credit_grants (refunds) WHERE refunds IS NOT NULL;

-- What a person wants to be told; without a row, what the files say.
CREATE TABLE notice_preferences (
    user_id text PRIMARY KEY,
    email_notifications boolean,
    low_balance_usd numeric(24, 12),
    trial_days integer,
    plan_days integer,
    usage_alerts boolean,
    updated_at timestamptz NOT NULL DEFAULT now()
);
-- How a payer's balance was when it was looked at last, and when its owner was told.
CREATE TABLE balance_notices (
    payer text PRIMARY KEY,
    level text NOT NULL CHECK (level IN ('ok', 'low', 'depleted')),
    low_told_at timestamptz NOT NULL DEFAULT '-infinity',
    depleted_told_at timestamptz NOT NULL DEFAULT '-infinity'
);

CREATE TABLE top_ups (
    payer text PRIMARY KEY,
    enabled boolean NOT NULL,
    threshold_usd numeric(24, 12) NOT NULL,
    amount_usd numeric(24, 12) NOT NULL,
    month_usd numeric(24, 12) NOT NULL,
    failures integer NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL DEFAULT now(),
    switched_off_because text NOT NULL DEFAULT '',
    updated_at timestamptz NOT NULL DEFAULT now()
);
-- A charge is open until its money is in the ledger or it failed; a payer has one open charge at most.
CREATE TABLE top_up_charges (
    ref text PRIMARY KEY,
    payer text NOT NULL,
    amount_usd numeric(24, 12) NOT NULL,
    state text NOT NULL DEFAULT 'claimed' CHECK (state IN ('claimed', 'charged', 'done', 'failed')),
    reason text NOT NULL DEFAULT '',
    tried_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
CREATE UNIQUE INDEX top_up_charges_open ON top_up_charges (payer) WHERE state IN ('claimed', 'charged');
CREATE INDEX top_up_charges_payer ON top_up_charges (payer, created_at);
