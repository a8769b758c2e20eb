-- Answers that clients asked to be kept, each with what was said to get it. Seen by the key that made it, until it
-- expires; the one it went on from is named, so that a conversation is read by following the names.

CREATE TABLE stored_answers (
    key_id text NOT NULL,
    id text NOT NULL,
    previous_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    input bytea NOT NULL,
    answer bytea NOT NULL,
    PRIMARY KEY (key_id, id)
);
CREATE INDEX stored_answers_expiry ON stored_answers (expires_at);
