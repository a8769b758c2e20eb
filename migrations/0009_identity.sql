-- Accounts that people sign in to: how they prove who they are, the sessions that they hold, and tokens that work once.
-- Of every token only a hash is kept.

ALTER TABLE users
    ADD COLUMN password_hash text,
    ADD COLUMN email_verified boolean NOT NULL DEFAULT false,
    ADD COLUMN preferences jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN settings jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN erased_at timestamptz;

CREATE TABLE identities (
    provider text NOT NULL,
    subject text NOT NULL,
    user_id text NOT NULL REFERENCES users (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    used_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, subject)
);
CREATE INDEX identities_user ON identities (user_id);

-- A session lives as long as its refresh tokens follow one another; a token that comes twice ends it.
CREATE TABLE sessions (
    id text PRIMARY KEY,
    user_id text NOT NULL REFERENCES users (id),
    method text NOT NULL,
    address text NOT NULL DEFAULT '',
    agent text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    used_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    end_reason text
);
CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_expiry ON sessions (expires_at);

CREATE TABLE refresh_tokens (
    hash bytea PRIMARY KEY,
    session_id text NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    used_at timestamptz,
    successor bytea
);
CREATE INDEX refresh_tokens_session ON refresh_tokens (session_id);

CREATE TABLE one_time_tokens (
    hash bytea PRIMARY KEY,
    purpose text NOT NULL CHECK (purpose IN ('sign_up', 'verify_address', 'password_reset', 'invitation')),
    user_id text REFERENCES users (id),
    email text NOT NULL,
    facts jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);
CREATE INDEX one_time_tokens_expiry ON one_time_tokens (expires_at);
CREATE INDEX one_time_tokens_email ON one_time_tokens (lower(email), purpose);
