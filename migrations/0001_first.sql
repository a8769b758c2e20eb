-- Users, keys, call records, and the counter that tells every worker what changed.
-- Money is NUMERIC(24,12) US dollars and is never rounded on the way in.

CREATE TABLE change_counter (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    n bigint NOT NULL
);
INSERT INTO change_counter (n) VALUES (0);

CREATE TABLE users (
    id text PRIMARY KEY,
    email text NOT NULL,
    role text NOT NULL DEFAULT 'user' CHECK (role IN ('user', 'admin')),
    active boolean NOT NULL DEFAULT true,
    credit_usd numeric(24, 12) NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    changed_n bigint NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX users_email ON users (lower(email));
CREATE INDEX users_changed ON users (changed_n);

CREATE TABLE api_keys (
    id text PRIMARY KEY,
    user_id text NOT NULL REFERENCES users (id),
    name text NOT NULL,
    role text NOT NULL DEFAULT 'user' CHECK (role IN ('user', 'admin')),
    environment text NOT NULL DEFAULT 'live' CHECK (environment IN ('live', 'test', 'staging', 'dev')),
    hash bytea NOT NULL UNIQUE,
    ring_id text NOT NULL,
    last4 text NOT NULL,
    scopes text[] NOT NULL DEFAULT ARRAY['inference'],
    models text[],
    expires_at timestamptz,
    revoked_at timestamptz,
    limits jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    changed_n bigint NOT NULL DEFAULT 0
);
CREATE INDEX api_keys_user ON api_keys (user_id);
CREATE INDEX api_keys_changed ON api_keys (changed_n);

CREATE TABLE call_records (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    id text PRIMARY KEY,
    request_id text,
    started_at timestamptz NOT NULL,
    key_id text,
    user_id text,
    surface text,
    requested_model text,
    model text,
    provider text,
    attempts jsonb NOT NULL DEFAULT '[]',
    status text NOT NULL,
    http_status integer,
    tokens jsonb NOT NULL DEFAULT '{}',
    usage_source text,
    cost_usd numeric(24, 12) NOT NULL DEFAULT 0,
    first_token_ms double precision,
    total_ms double precision,
    tags jsonb NOT NULL DEFAULT '{}',
    error text,
    config_revision text,
    stream boolean NOT NULL DEFAULT false,
    rescued_by jsonb NOT NULL DEFAULT '[]',
    damaged integer NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX call_records_seq ON call_records (seq);
-- Records come in the order of time, so a few bytes per hundred pages find a day.
CREATE INDEX call_records_time ON call_records USING brin (started_at) WITH (pages_per_range = 32);
CREATE INDEX call_records_key ON call_records (key_id, seq);
-- Most calls keep the id that the gateway gave them; only the caller's own request ids need an index.
CREATE INDEX call_records_request ON call_records (request_id) WHERE request_id <> id;

CREATE TABLE journal_positions (
    file text PRIMARY KEY,
    position bigint NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now()
);
