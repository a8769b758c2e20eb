-- A payer's movements are listed by time, by the index that invoices read: one index less for every call.

DROP INDEX ledger_movements_payer;
