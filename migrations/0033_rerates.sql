-- What pricing a call anew came to: the movement that corrects it, and the cost that it has since.

CREATE TABLE rerates (
    ref text PRIMARY KEY,
    call_id text NOT NULL,
    cost_usd numeric(24, 12) NOT NULL,
    adjusted_usd numeric(24, 12) NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX rerates_call ON rerates (call_id, at);
