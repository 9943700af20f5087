-- A payment knows for which transaction of a customer's it was made.

-- +goose Up

-- What the customer's transaction token was issued for, by which it can be renewed; never the token. Empty for a cash deposit, and for what was
-- made before there were transactions.
ALTER TABLE payments ADD COLUMN transaction_id TEXT NOT NULL DEFAULT '';
