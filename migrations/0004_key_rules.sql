-- What a key may not do beyond its scopes, and the text it had before it was rotated, valid until the given moment.

ALTER TABLE api_keys
    ADD COLUMN providers text[],
    ADD COLUMN ip_allowlist text[],
    ADD COLUMN referrers text[],
    ADD COLUMN max_requests bigint CHECK (max_requests >= 0),
    ADD COLUMN max_spend_usd numeric(24, 12) CHECK (max_spend_usd >= 0),
    ADD COLUMN is_primary boolean NOT NULL DEFAULT false,
    ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN replaced_hash bytea UNIQUE,
    ADD COLUMN replaced_until timestamptz;
