-- Accounts that are marked: their keys ask for nothing, and everything else of them stays open.

ALTER TABLE users ADD COLUMN status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'bot', 'suspended'));
