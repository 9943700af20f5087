-- Payments set money aside before they post, and may be in review more than once. Changes are numbered for each account instead of for
-- all, as they are on PostgreSQL; the numbers that were given stay, so that cursors that were given stay true.

-- +goose Up

-- SQLite cannot change a CHECK: the tables are made anew.
CREATE TABLE payments_new (
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
  state             TEXT    NOT NULL
                    CHECK (state IN ('created', 'assessed', 'posted', 'refused', 'held', 'in_review', 'unknown', 'releasing')),
  -- A JSON array of {"code", "message"}.
  reasons           TEXT    NOT NULL,
  -- How many changes it has seen.
  version           INTEGER NOT NULL CHECK (version > 0),
  -- 1 when money was set aside under its ID.
  hold              INTEGER NOT NULL CHECK (hold IN (0, 1)),
  -- 1 while there is a next step that needs no person.
  unfinished        INTEGER NOT NULL CHECK (unfinished IN (0, 1)),
  -- Microseconds since 1970, as all times here.
  create_time       INTEGER NOT NULL,
  update_time       INTEGER NOT NULL,
  UNIQUE (caller, request_id)
) STRICT;

-- What was held is in review. What was assessed may have been posted without a hold: the ledger is asked for it once more, in the way
-- it was asked before.
INSERT INTO payments_new
SELECT position, payment_id, caller, request_id, request_digest, kind, payer_account_id, payer_customer_id, payee_account_id,
  currency_code, minor_units, reference,
  CASE state WHEN 'held' THEN 'in_review' WHEN 'assessed' THEN 'unknown' ELSE state END,
  reasons,
  (SELECT count(DISTINCT c.state) FROM changes c WHERE c.payment_id = p.payment_id) + (state = 'assessed'),
  0,
  state IN ('created', 'assessed'),
  create_time, update_time
FROM payments p;

CREATE TABLE changes_new (
  account_id  TEXT    NOT NULL,
  -- 1, 2, 3 … for each account.
  sequence    INTEGER NOT NULL,
  payment_id  TEXT    NOT NULL REFERENCES payments_new (payment_id),
  state       TEXT    NOT NULL,
  reasons     TEXT    NOT NULL,
  change_time INTEGER NOT NULL,
  PRIMARY KEY (account_id, sequence)
) STRICT, WITHOUT ROWID;

INSERT INTO changes_new
SELECT account_id, sequence, payment_id, CASE state WHEN 'held' THEN 'in_review' ELSE state END, reasons, change_time FROM changes;

-- The number of the last change of each account. Two transactions that change payments of one account get in each other's way here, so that
-- the second is numbered when the first can be seen: a reader who has seen a change has seen all before it.
CREATE TABLE change_counts (
  account_id TEXT    NOT NULL PRIMARY KEY,
  sequence   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO change_counts SELECT account_id, max(sequence) FROM changes GROUP BY account_id;

-- That assessed payments are unknown now is a change like others.
INSERT INTO changes_new
SELECT s.account_id, n.sequence + row_number() OVER (PARTITION BY s.account_id ORDER BY s.position), s.payment_id, 'unknown', '[]', s.update_time
FROM (
  SELECT position, payment_id, payer_account_id AS account_id, update_time FROM payments WHERE state = 'assessed'
  UNION ALL
  SELECT position, payment_id, payee_account_id, update_time FROM payments WHERE state = 'assessed'
) s JOIN change_counts n ON n.account_id = s.account_id
WHERE s.account_id <> '';

UPDATE change_counts SET sequence = (SELECT max(c.sequence) FROM changes_new c WHERE c.account_id = change_counts.account_id);

-- What persons decided, each on a version of a payment.
CREATE TABLE reviews (
  payment_id  TEXT    NOT NULL REFERENCES payments_new (payment_id),
  version     INTEGER NOT NULL,
  decision    TEXT    NOT NULL CHECK (decision IN ('approve', 'refuse')),
  -- The SPIFFE ID of whoever decided.
  decided_by  TEXT    NOT NULL,
  decide_time INTEGER NOT NULL,
  PRIMARY KEY (payment_id, version)
) STRICT, WITHOUT ROWID;

-- Payments that the ledger refused to set money aside for, which another request that was under way at that time may have done all
-- the same: their holds are released, once more or for nothing, when it is due.
CREATE TABLE late_holds (
  payment_id TEXT    NOT NULL PRIMARY KEY REFERENCES payments_new (payment_id),
  due_time   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

DROP TABLE changes;
DROP TABLE payments;
ALTER TABLE payments_new RENAME TO payments;
ALTER TABLE changes_new RENAME TO changes;

CREATE INDEX payments_by_payer ON payments (payer_account_id, position);
CREATE INDEX payments_by_payee ON payments (payee_account_id, position);
-- Small however many payments there are: it holds those under way.
CREATE INDEX payments_unfinished ON payments (position) WHERE unfinished = 1;
CREATE INDEX late_holds_due ON late_holds (due_time);

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

-- +goose StatementBegin
CREATE TRIGGER reviews_are_not_edited BEFORE UPDATE ON reviews
BEGIN
  SELECT RAISE(ABORT, 'reviews are append-only');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER reviews_are_kept BEFORE DELETE ON reviews
BEGIN
  SELECT RAISE(ABORT, 'reviews are append-only');
END;
-- +goose StatementEnd
