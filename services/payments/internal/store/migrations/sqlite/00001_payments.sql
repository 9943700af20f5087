-- +goose Up
CREATE TABLE payments (
  -- The order of making. AUTOINCREMENT never gives a position twice, so page tokens stay true.
  position          INTEGER PRIMARY KEY AUTOINCREMENT,
  payment_id        TEXT    NOT NULL UNIQUE,
  -- Who asked for it, under which key, and a digest of what was asked for.
  caller            TEXT    NOT NULL,
  request_id        TEXT    NOT NULL,
  request_digest    BLOB    NOT NULL,
  kind              TEXT    NOT NULL CHECK (kind IN ('transfer', 'cash_deposit')),
  payer_account_id  TEXT    NOT NULL,
  payer_customer_id TEXT    NOT NULL,
  payee_account_id  TEXT    NOT NULL,
  currency_code     TEXT    NOT NULL CHECK (length(currency_code) = 3),
  minor_units       INTEGER NOT NULL CHECK (minor_units > 0),
  reference         TEXT    NOT NULL,
  state             TEXT    NOT NULL CHECK (state IN ('created', 'assessed', 'posted', 'refused', 'held')),
  -- A JSON array of {"code", "message"}.
  reasons           TEXT    NOT NULL,
  -- Microseconds since 1970, as all times here.
  create_time       INTEGER NOT NULL,
  update_time       INTEGER NOT NULL,
  UNIQUE (caller, request_id)
) STRICT;

CREATE INDEX payments_by_payer ON payments (payer_account_id, position);
CREATE INDEX payments_by_payee ON payments (payee_account_id, position);
-- Small however many payments there are: it holds those under way.
CREATE INDEX payments_unfinished ON payments (position) WHERE state IN ('created', 'assessed');

-- One row for each change of state and each account that it touches, written in the transaction that makes the change.
-- SQLite has one writer at a time, so sequences become visible in their own order, and a reader who has seen one has seen all
-- before it.
CREATE TABLE changes (
  sequence    INTEGER PRIMARY KEY AUTOINCREMENT,
  account_id  TEXT    NOT NULL,
  payment_id  TEXT    NOT NULL REFERENCES payments (payment_id),
  state       TEXT    NOT NULL,
  reasons     TEXT    NOT NULL,
  change_time INTEGER NOT NULL,
  -- A payment is in each state at most once.
  UNIQUE (payment_id, account_id, state)
) STRICT;

CREATE INDEX changes_by_account ON changes (account_id, sequence);

-- +goose StatementBegin
CREATE TRIGGER payments_finish_once BEFORE UPDATE ON payments WHEN OLD.state IN ('posted', 'refused')
BEGIN
  SELECT RAISE(ABORT, 'a finished payment does not change');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER payments_are_kept BEFORE DELETE ON payments
BEGIN
  SELECT RAISE(ABORT, 'payments are not deleted');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER changes_are_not_edited BEFORE UPDATE ON changes
BEGIN
  SELECT RAISE(ABORT, 'changes are append-only');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER changes_are_kept BEFORE DELETE ON changes
BEGIN
  SELECT RAISE(ABORT, 'changes are append-only');
END;
-- +goose StatementEnd

-- +goose Down
DROP TABLE changes;
DROP TABLE payments;
