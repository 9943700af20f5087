-- +goose Up
CREATE TABLE accounts (
  -- The order of opening. AUTOINCREMENT never gives a position twice, so page tokens stay true.
  position       INTEGER PRIMARY KEY AUTOINCREMENT,
  account_id     TEXT    NOT NULL UNIQUE,
  customer_id    TEXT    NOT NULL,
  display_name   TEXT    NOT NULL,
  currency_code  TEXT    NOT NULL CHECK (length(currency_code) = 3),
  -- The request that opened it, and a digest of what it asked for.
  request_id     TEXT    NOT NULL UNIQUE,
  request_digest BLOB    NOT NULL,
  -- Microseconds since 1970, as all times here.
  open_time      INTEGER NOT NULL,
  -- The attempt to close it that is under way.
  closing        TEXT,
  close_time     INTEGER
) STRICT;

CREATE INDEX accounts_by_customer ON accounts (customer_id, position);

-- An account that was closed stays closed.
-- +goose StatementBegin
CREATE TRIGGER accounts_stay_closed BEFORE UPDATE ON accounts WHEN OLD.close_time IS NOT NULL
BEGIN
  SELECT RAISE(ABORT, 'a closed account does not change');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER accounts_are_kept BEFORE DELETE ON accounts
BEGIN
  SELECT RAISE(ABORT, 'accounts are not deleted');
END;
-- +goose StatementEnd

-- +goose Down
DROP TABLE accounts;
