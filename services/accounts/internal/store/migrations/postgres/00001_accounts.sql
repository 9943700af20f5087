-- The register of accounts. The SQLite schema is the same but for its types.

-- +goose Up
CREATE TABLE customers (
  customer_id   TEXT   NOT NULL PRIMARY KEY,
  -- The greatest position of the customer's accounts. Whoever opens one counts it up in the same transaction, so that the transactions of a
  -- customer come one after the other, and no account can appear behind a position that a list has passed. Positions from a sequence
  -- would become visible in the order of the commits.
  last_position BIGINT NOT NULL
);

CREATE TABLE accounts (
  account_id     TEXT   NOT NULL PRIMARY KEY,
  customer_id    TEXT   NOT NULL REFERENCES customers (customer_id),
  -- The order of opening among the customer's accounts. Page tokens hold it: it never changes.
  position       BIGINT NOT NULL,
  display_name   TEXT   NOT NULL,
  currency_code  TEXT   NOT NULL CHECK (length(currency_code) = 3),
  -- The request that opened it, and a digest of what it asked for.
  request_id     TEXT   NOT NULL UNIQUE,
  request_digest BYTEA  NOT NULL,
  -- Microseconds since 1970, as all times here.
  open_time      BIGINT NOT NULL,
  -- Since when it is frozen; NULL while it is not.
  freeze_time    BIGINT,
  -- The attempt to close it that is under way, and from when on others may give it up.
  closing        TEXT,
  closing_until  BIGINT,
  close_time     BIGINT,
  UNIQUE (customer_id, position),
  CHECK ((closing IS NULL) = (closing_until IS NULL)),
  -- The statuses: an account is open, being closed, frozen or closed, and never two of these.
  CHECK (num_nonnulls(freeze_time, closing, close_time) <= 1)
);

-- Who froze and unfroze accounts, when and why. An account may be frozen any number of times.
CREATE TABLE interventions (
  account_id TEXT   NOT NULL REFERENCES accounts (account_id),
  number     BIGINT NOT NULL, -- from 1, by account
  kind       TEXT   NOT NULL CHECK (kind IN ('freeze', 'unfreeze')),
  actor      TEXT   NOT NULL CHECK (actor <> ''), -- a SPIFFE ID
  reason     TEXT   NOT NULL,
  time       BIGINT NOT NULL,
  PRIMARY KEY (account_id, number)
);

-- +goose StatementBegin
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation';
END;
$$;
-- +goose StatementEnd

CREATE TRIGGER accounts_stay_closed BEFORE UPDATE ON accounts
  FOR EACH ROW WHEN (OLD.close_time IS NOT NULL) EXECUTE FUNCTION refuse('a closed account does not change');
CREATE TRIGGER accounts_keep_owners BEFORE UPDATE OF account_id, customer_id, position, currency_code, request_id, request_digest, open_time ON accounts
  FOR EACH ROW EXECUTE FUNCTION refuse('what an account was opened as does not change');
CREATE TRIGGER accounts_are_kept BEFORE DELETE ON accounts
  FOR EACH ROW EXECUTE FUNCTION refuse('accounts are not deleted');
CREATE TRIGGER accounts_are_not_truncated BEFORE TRUNCATE ON accounts
  EXECUTE FUNCTION refuse('accounts are not deleted');
CREATE TRIGGER interventions_stay BEFORE UPDATE OR DELETE ON interventions
  FOR EACH ROW EXECUTE FUNCTION refuse('interventions are append-only');
CREATE TRIGGER interventions_are_not_truncated BEFORE TRUNCATE ON interventions
  EXECUTE FUNCTION refuse('interventions are append-only');
