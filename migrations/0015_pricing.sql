-- What a call was priced by, so that it can be priced again: our model, service tier, book, what the provider bills.
-- Statements read one payer's calls of a span of time.

ALTER TABLE call_records ADD COLUMN pricing jsonb NOT NULL DEFAULT '{}';
CREATE INDEX call_records_user_time ON call_records (user_id, started_at);
