-- Mails to be sent: one row for each reason to write (`ref`), written with what gives the reason, sent afterwards.
-- What the text is made of is dropped once it was sent; where it holds a secret it is encrypted with the key ring.

CREATE TABLE mail_outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ref text NOT NULL UNIQUE,
    user_id text NOT NULL DEFAULT '',
    template text NOT NULL,
    address text NOT NULL,
    data jsonb,
    sealed bytea,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'failed', 'sent', 'given_up')),
    attempts integer NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL DEFAULT now(),
    claimed_until timestamptz,
    problem text NOT NULL DEFAULT '',
    sink_id text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    sent_at timestamptz
);
CREATE INDEX mail_outbox_waiting ON mail_outbox (next_try_at) WHERE status IN ('pending', 'failed');
CREATE INDEX mail_outbox_user ON mail_outbox (user_id, id) WHERE user_id <> '';
