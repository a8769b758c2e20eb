-- Limits that administrators give keys and users while the gateway runs, who was refused by a limit, and addresses
-- that are let in without being counted.

ALTER TABLE users ADD COLUMN limits jsonb NOT NULL DEFAULT '{}';
-- What administrators allow a key; `limits` is what its owner wants, and the tighter one holds.
ALTER TABLE api_keys ADD COLUMN ceiling jsonb NOT NULL DEFAULT '{}';

-- `n` is raised in every transaction that changes this table or ip_allowlist; its row lock orders the commits.
CREATE TABLE limit_settings (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    n bigint NOT NULL DEFAULT 0,
    each_key jsonb NOT NULL DEFAULT '{}',
    updated_at timestamptz NOT NULL DEFAULT now(),
    updated_by text NOT NULL DEFAULT ''
);
INSERT INTO limit_settings DEFAULT VALUES;

CREATE TABLE ip_allowlist (
    id text PRIMARY KEY,
    network text NOT NULL,
    reason text NOT NULL DEFAULT '',
    user_id text,
    enabled boolean NOT NULL DEFAULT true,
    expires_at timestamptz,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_by text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE rate_limit_alerts (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    key_id text NOT NULL,
    user_id text NOT NULL,
    code text NOT NULL,
    scope text NOT NULL,
    kind text NOT NULL,
    window_s integer NOT NULL,
    number bigint NOT NULL,
    refused bigint NOT NULL
);
