-- The books: what was transferred, entry by entry, and the balances that follow from it.

-- +goose Up
CREATE TABLE transfers (
    transfer_id TEXT    NOT NULL PRIMARY KEY,
    digest      BLOB    NOT NULL CHECK (length(digest) = 32), -- of the content, to tell a repetition from a mix-up
    description TEXT    NOT NULL,
    post_time   INTEGER NOT NULL                              -- microseconds since 1970 UTC
) STRICT, WITHOUT ROWID;

CREATE TABLE entries (
    sequence      INTEGER PRIMARY KEY AUTOINCREMENT, -- AUTOINCREMENT: a number is never given twice
    transfer_id   TEXT    NOT NULL REFERENCES transfers (transfer_id),
    account_id    TEXT    NOT NULL,
    currency_code TEXT    NOT NULL CHECK (length(currency_code) = 3),
    minor_units   INTEGER NOT NULL CHECK (minor_units <> 0),
    balance_after INTEGER NOT NULL,
    UNIQUE (transfer_id, account_id, currency_code),
    -- The last line of defence: no code can write an overdraft of a customer's account.
    CONSTRAINT no_overdraft CHECK (balance_after >= 0 OR substr(account_id, 1, 5) = 'bank-')
) STRICT;

CREATE INDEX entries_by_account ON entries (account_id, sequence);

-- Derived from entries and written in the same transaction, so that a balance does not take a walk through the whole account.
CREATE TABLE balances (
    account_id    TEXT    NOT NULL,
    currency_code TEXT    NOT NULL,
    minor_units   INTEGER NOT NULL,
    PRIMARY KEY (account_id, currency_code)
) STRICT, WITHOUT ROWID;

-- Transfers and entries are only ever added. A mistake is put right by another transfer, never by a change of the past.
-- The triggers on INSERT are for INSERT OR REPLACE, which deletes without firing a trigger on DELETE
-- (https://sqlite.org/lang_conflict.html).

-- +goose StatementBegin
CREATE TRIGGER transfers_update BEFORE UPDATE ON transfers
BEGIN
    SELECT RAISE(ABORT, 'transfers are append-only');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER transfers_delete BEFORE DELETE ON transfers
BEGIN
    SELECT RAISE(ABORT, 'transfers are append-only');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER transfers_replace BEFORE INSERT ON transfers
WHEN EXISTS (SELECT 1 FROM transfers WHERE transfer_id = NEW.transfer_id)
BEGIN
    SELECT RAISE(ABORT, 'transfers are append-only');
END;
-- +goose StatementEnd

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
    OR EXISTS (
        SELECT 1 FROM entries
        WHERE transfer_id = NEW.transfer_id AND account_id = NEW.account_id AND currency_code = NEW.currency_code
    )
BEGIN
    SELECT RAISE(ABORT, 'entries are append-only');
END;
-- +goose StatementEnd
