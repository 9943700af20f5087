-- Accounts can be frozen, attempts to close one end by themselves, and positions are numbered by customer.
--
-- The table is made anew, since SQLite can neither change a primary key nor add a CHECK (https://sqlite.org/lang_altertable.html).

-- +goose Up
CREATE TABLE customers (
  customer_id   TEXT    NOT NULL PRIMARY KEY,
  -- The greatest position of the customer's accounts. Whoever opens one counts it up in the same transaction, so that the transactions of a
  -- customer come one after the other, and no account can appear behind a position that a list has passed.
  last_position INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO customers (customer_id, last_position) SELECT customer_id, max(position) FROM accounts GROUP BY customer_id;

CREATE TABLE accounts_2 (
  account_id     TEXT    NOT NULL PRIMARY KEY,
  customer_id    TEXT    NOT NULL REFERENCES customers (customer_id),
  -- The order of opening among the customer's accounts. Page tokens hold it: it never changes, and those that were there stay as they were.
  position       INTEGER NOT NULL,
  display_name   TEXT    NOT NULL,
  currency_code  TEXT    NOT NULL CHECK (length(currency_code) = 3),
  -- The request that opened it, and a digest of what it asked for.
  request_id     TEXT    NOT NULL UNIQUE,
  request_digest BLOB    NOT NULL,
  -- Microseconds since 1970, as all times here.
  open_time      INTEGER NOT NULL,
  -- Since when it is frozen; NULL while it is not.
  freeze_time    INTEGER,
  -- The attempt to close it that is under way, and from when on others may give it up.
  closing        TEXT,
  closing_until  INTEGER,
  close_time     INTEGER,
  UNIQUE (customer_id, position),
  CHECK ((closing IS NULL) = (closing_until IS NULL)),
  -- The statuses: an account is open, being closed, frozen or closed, and never two of these.
  CHECK ((freeze_time IS NOT NULL) + (closing IS NOT NULL) + (close_time IS NOT NULL) <= 1)
) STRICT, WITHOUT ROWID;

-- An attempt that was under way when its process ended is one that anybody may give up.
INSERT INTO accounts_2 (account_id, customer_id, position, display_name, currency_code, request_id, request_digest, open_time,
                        closing, closing_until, close_time)
SELECT account_id, customer_id, position, display_name, currency_code, request_id, request_digest, open_time,
       CASE WHEN close_time IS NULL THEN closing END, CASE WHEN close_time IS NULL AND closing IS NOT NULL THEN 0 END, close_time
FROM accounts;

DROP TABLE accounts;
ALTER TABLE accounts_2 RENAME TO accounts;

-- Who froze and unfroze accounts, when and why. An account may be frozen any number of times.
CREATE TABLE interventions (
  account_id TEXT    NOT NULL REFERENCES accounts (account_id),
  number     INTEGER NOT NULL, -- from 1, by account
  kind       TEXT    NOT NULL CHECK (kind IN ('freeze', 'unfreeze')),
  actor      TEXT    NOT NULL CHECK (actor <> ''), -- a SPIFFE ID
  reason     TEXT    NOT NULL,
  time       INTEGER NOT NULL,
  PRIMARY KEY (account_id, number)
) STRICT, WITHOUT ROWID;

-- An account that was closed stays closed.
-- +goose StatementBegin
CREATE TRIGGER accounts_stay_closed BEFORE UPDATE ON accounts WHEN OLD.close_time IS NOT NULL
BEGIN
  SELECT RAISE(ABORT, 'a closed account does not change');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER accounts_keep_owners BEFORE UPDATE OF account_id, customer_id, position, currency_code, request_id, request_digest, open_time ON accounts
BEGIN
  SELECT RAISE(ABORT, 'what an account was opened as does not change');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER accounts_are_kept BEFORE DELETE ON accounts
BEGIN
  SELECT RAISE(ABORT, 'accounts are not deleted');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER interventions_stay BEFORE UPDATE ON interventions
BEGIN
  SELECT RAISE(ABORT, 'interventions are append-only');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER interventions_are_kept BEFORE DELETE ON interventions
BEGIN
  SELECT RAISE(ABORT, 'interventions are append-only');
END;
-- +goose StatementEnd

-- For INSERT OR REPLACE, which deletes without firing a trigger on DELETE (https://sqlite.org/lang_conflict.html).
-- +goose StatementBegin
CREATE TRIGGER interventions_are_not_replaced BEFORE INSERT ON interventions
WHEN EXISTS (SELECT 1 FROM interventions WHERE account_id = NEW.account_id AND number = NEW.number)
BEGIN
  SELECT RAISE(ABORT, 'interventions are append-only');
END;
-- +goose StatementEnd
