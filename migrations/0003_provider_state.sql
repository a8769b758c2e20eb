-- Signatures and encrypted reasoning that a client's dialect has no place for, encrypted with the key ring: put back
-- when the tool call comes back from the same key, until it expires.

CREATE TABLE provider_state (
    key_id text NOT NULL,
    call_id text NOT NULL,
    expires_at timestamptz NOT NULL,
    state bytea NOT NULL,
    PRIMARY KEY (key_id, call_id)
);
CREATE INDEX provider_state_expiry ON provider_state (expires_at);
