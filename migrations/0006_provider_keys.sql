-- Users' own keys at providers, encrypted with the key ring. `id` is new with each text.

CREATE TABLE user_provider_keys (
    user_id text NOT NULL REFERENCES users (id),
    provider text NOT NULL,
    id text NOT NULL UNIQUE,
    sealed text NOT NULL,
    last4 text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, provider)
);
