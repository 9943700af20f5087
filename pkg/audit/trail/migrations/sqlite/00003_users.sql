-- +goose Up

-- For which user and in which transaction the call was made, by a token that the server had verified. NULL when the call had none that was looked at and good, and in
-- the rows that were there before these were recorded.
ALTER TABLE records ADD COLUMN subject TEXT CHECK (subject IS NULL OR kind = 'decision' AND subject <> '');
ALTER TABLE records ADD COLUMN transaction_id TEXT CHECK (transaction_id IS NULL OR kind = 'decision' AND transaction_id <> '');

CREATE INDEX records_subject ON records (subject) WHERE subject IS NOT NULL;
CREATE INDEX records_transaction_id ON records (transaction_id) WHERE transaction_id IS NOT NULL;
