-- Holds: money of a customer's account that is set aside for one transfer to come.

-- +goose Up
CREATE TABLE holds (
    number        INTEGER PRIMARY KEY AUTOINCREMENT, -- in the order of making
    hold_id       TEXT    NOT NULL UNIQUE,
    account_id    TEXT    NOT NULL CHECK (substr(account_id, 1, 5) <> 'bank-'), -- the bank's own may go below zero
    currency_code TEXT    NOT NULL CHECK (length(currency_code) = 3),
    minor_units   INTEGER NOT NULL CHECK (minor_units > 0),
    state         TEXT    NOT NULL CHECK (state IN ('active', 'captured', 'released')),
    transfer_id   TEXT    REFERENCES transfers (transfer_id), -- that captured it
    create_time   INTEGER NOT NULL,                           -- microseconds since 1970 UTC
    end_time      INTEGER,
    CHECK ((state = 'active') = (end_time IS NULL)),
    CHECK ((state = 'captured') = (transfer_id IS NOT NULL))
) STRICT;

CREATE INDEX holds_active ON holds (account_id, number) WHERE state = 'active';

-- A hold ends once. What it is does not change, and it is not removed.

-- +goose StatementBegin
CREATE TRIGGER holds_update BEFORE UPDATE ON holds
WHEN OLD.state <> 'active' OR NEW.state = 'active'
    OR (NEW.number, NEW.hold_id, NEW.account_id, NEW.currency_code, NEW.minor_units, NEW.create_time)
    IS NOT (OLD.number, OLD.hold_id, OLD.account_id, OLD.currency_code, OLD.minor_units, OLD.create_time)
BEGIN
    SELECT RAISE(ABORT, 'holds are append-only, but for their end');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER holds_delete BEFORE DELETE ON holds
BEGIN
    SELECT RAISE(ABORT, 'holds are append-only, but for their end');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER holds_replace BEFORE INSERT ON holds
WHEN EXISTS (SELECT 1 FROM holds WHERE number = NEW.number OR hold_id = NEW.hold_id)
BEGIN
    SELECT RAISE(ABORT, 'holds are append-only, but for their end');
END;
-- +goose StatementEnd

-- Balances once more, with what is held of them: SQLite cannot add a constraint to a table that is there.
ALTER TABLE balances RENAME TO balances_before_holds;

CREATE TABLE balances (
    account_id    TEXT    NOT NULL,
    currency_code TEXT    NOT NULL,
    minor_units   INTEGER NOT NULL,
    held          INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0), -- the sum of the account's active holds
    PRIMARY KEY (account_id, currency_code),
    -- Money that is held cannot be spent, and none that is not there can be held.
    CONSTRAINT no_overspending CHECK (minor_units >= held OR substr(account_id, 1, 5) = 'bank-')
) STRICT, WITHOUT ROWID;

INSERT INTO balances (account_id, currency_code, minor_units)
SELECT account_id, currency_code, minor_units FROM balances_before_holds;

DROP TABLE balances_before_holds;

-- Entries once more, without the index on their transfers: no request asks for them by it, and each posting would pay for it. That a
-- transfer has an account at most once in a currency is a rule of the domain, and a second time would break the chain of balance_after, which
-- the check of the books follows.
DROP TRIGGER entries_update;
DROP TRIGGER entries_delete;
DROP TRIGGER entries_replace;
DROP INDEX entries_by_account;
ALTER TABLE entries RENAME TO entries_before_holds;

CREATE TABLE entries (
    sequence      INTEGER PRIMARY KEY AUTOINCREMENT, -- AUTOINCREMENT: a number is never given twice
    transfer_id   TEXT    NOT NULL REFERENCES transfers (transfer_id),
    account_id    TEXT    NOT NULL,
    currency_code TEXT    NOT NULL CHECK (length(currency_code) = 3),
    minor_units   INTEGER NOT NULL CHECK (minor_units <> 0),
    balance_after INTEGER NOT NULL,
    -- The last line of defence: no code can write an overdraft of a customer's account.
    CONSTRAINT no_overdraft CHECK (balance_after >= 0 OR substr(account_id, 1, 5) = 'bank-')
) STRICT;

INSERT INTO entries (sequence, transfer_id, account_id, currency_code, minor_units, balance_after)
SELECT sequence, transfer_id, account_id, currency_code, minor_units, balance_after FROM entries_before_holds ORDER BY sequence;

DROP TABLE entries_before_holds;

CREATE INDEX entries_by_account ON entries (account_id, sequence);

-- +goose StatementBegin
CREATE TRIGGER entries_update BEFORE UPDATE ON entries
BEGIN
    SELECT RAISE(ABORT, 'entries are append-only');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER entries_delete BEFORE DELETE ON entries
BEGIN
    SELECT RAISE(ABORT, 'entries are append-only');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER entries_replace BEFORE INSERT ON entries
WHEN EXISTS (SELECT 1 FROM entries WHERE sequence = NEW.sequence)
BEGIN
    SELECT RAISE(ABORT, 'entries are append-only');
END;
-- +goose StatementEnd
