-- An invoice reads one payer's movements of a month.

CREATE INDEX ledger_movements_payer_time ON ledger_movements (payer, created_at);
