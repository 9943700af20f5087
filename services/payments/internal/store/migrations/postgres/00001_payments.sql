-- +goose Up
CREATE TABLE payments (
  -- The order of making, gaps included. It tells pages apart; nothing depends on payments becoming visible in this order.
  position          BIGINT  PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  payment_id        TEXT    NOT NULL UNIQUE,
  -- Who asked for it, under which key, and a digest of what was asked for.
  caller            TEXT    NOT NULL,
  request_id        TEXT    NOT NULL,
  request_digest    BYTEA   NOT NULL,
  kind              TEXT    NOT NULL CHECK (kind IN ('transfer', 'cash_deposit')),
  payer_account_id  TEXT    NOT NULL,
  payer_customer_id TEXT    NOT NULL,
  payee_account_id  TEXT    NOT NULL,
  currency_code     TEXT    NOT NULL CHECK (length(currency_code) = 3),
  minor_units       BIGINT  NOT NULL CHECK (minor_units > 0),
  reference         TEXT    NOT NULL,
  state             TEXT    NOT NULL
                    CHECK (state IN ('created', 'assessed', 'posted', 'refused', 'held', 'in_review', 'unknown', 'releasing')),
  -- A JSON array of {"code", "message"}, as it was written.
  reasons           TEXT    NOT NULL,
  -- How many changes it has seen.
  version           BIGINT  NOT NULL CHECK (version > 0),
  -- 1 when money was set aside under its ID.
  hold              INTEGER NOT NULL CHECK (hold IN (0, 1)),
  -- 1 while there is a next step that needs no person.
  unfinished        INTEGER NOT NULL CHECK (unfinished IN (0, 1)),
  -- Microseconds since 1970, as all times here.
  create_time       BIGINT  NOT NULL,
  update_time       BIGINT  NOT NULL,
  UNIQUE (caller, request_id)
);

CREATE INDEX payments_by_payer ON payments (payer_account_id, position);
CREATE INDEX payments_by_payee ON payments (payee_account_id, position);
-- Small however many payments there are: it holds those under way.
CREATE INDEX payments_unfinished ON payments (position) WHERE unfinished = 1;

-- One row for each change of state and each account that it touches, written in the transaction that makes the change.
CREATE TABLE changes (
  account_id  TEXT   NOT NULL,
  -- 1, 2, 3 … for each account.
  sequence    BIGINT NOT NULL,
  payment_id  TEXT   NOT NULL REFERENCES payments (payment_id),
  state       TEXT   NOT NULL,
  reasons     TEXT   NOT NULL,
  change_time BIGINT NOT NULL,
  PRIMARY KEY (account_id, sequence)
);

-- The number of the last change of each account. Two transactions that change payments of one account get in each other's way here, so that
-- the second is numbered when the first can be seen: a reader who has seen a change has seen all before it. A sequence of PostgreSQL's would
-- be faster and not do: of two transactions that overlap the second number may be seen before the first.
CREATE TABLE change_counts (
  account_id TEXT   NOT NULL PRIMARY KEY,
  sequence   BIGINT NOT NULL
);

-- What persons decided, each on a version of a payment.
CREATE TABLE reviews (
  payment_id  TEXT   NOT NULL REFERENCES payments (payment_id),
  version     BIGINT NOT NULL,
  decision    TEXT   NOT NULL CHECK (decision IN ('approve', 'refuse')),
  -- The SPIFFE ID of whoever decided.
  decided_by  TEXT   NOT NULL,
  decide_time BIGINT NOT NULL,
  PRIMARY KEY (payment_id, version)
);

-- Payments that the ledger refused to set money aside for, which another request that was under way at that time may have done all
-- the same: their holds are released, once more or for nothing, when it is due.
CREATE TABLE late_holds (
  payment_id TEXT   NOT NULL PRIMARY KEY REFERENCES payments (payment_id),
  due_time   BIGINT NOT NULL
);

CREATE INDEX late_holds_due ON late_holds (due_time);

-- +goose StatementBegin
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation';
END;
$$;
-- +goose StatementEnd

CREATE TRIGGER payments_finish_once BEFORE UPDATE ON payments FOR EACH ROW WHEN (OLD.state IN ('posted', 'refused'))
  EXECUTE FUNCTION refuse_change('a finished payment does not change');
CREATE TRIGGER payments_are_kept BEFORE DELETE OR TRUNCATE ON payments FOR EACH STATEMENT
  EXECUTE FUNCTION refuse_change('payments are not deleted');
CREATE TRIGGER changes_are_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON changes FOR EACH STATEMENT
  EXECUTE FUNCTION refuse_change('changes are append-only');
CREATE TRIGGER reviews_are_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON reviews FOR EACH STATEMENT
  EXECUTE FUNCTION refuse_change('reviews are append-only');
