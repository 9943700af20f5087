-- What the authorization server knows. The SQLite schema is the same but for its types.

-- +goose Up
CREATE TABLE customers (
  customer_id   TEXT    NOT NULL PRIMARY KEY,
  username      TEXT    NOT NULL UNIQUE,
  password_hash TEXT    NOT NULL, -- argon2id, as a PHC string
  otp_secret    TEXT    NOT NULL, -- base 32; a verifier of RFC 6238 has to know it
  -- The time step of the last one-time code that was accepted; none up to it is again (RFC 6238 §5.2).
  otp_step      BIGINT NOT NULL DEFAULT 0,
  create_time   BIGINT NOT NULL
);

CREATE TABLE devices (
  device_id   TEXT    NOT NULL PRIMARY KEY,
  customer_id TEXT    NOT NULL REFERENCES customers (customer_id),
  name        TEXT    NOT NULL,
  serial      TEXT    NOT NULL UNIQUE,
  certificate BYTEA    NOT NULL,
  key_digest  BYTEA    NOT NULL UNIQUE, -- SHA-256 of the SubjectPublicKeyInfo: a key is of one device
  enrol_time  BIGINT NOT NULL,
  expire_time BIGINT NOT NULL,
  revoke_time BIGINT
);

CREATE INDEX devices_by_customer ON devices (customer_id, enrol_time);

-- One log-in. The tokens themselves are nowhere: what is kept of the one refresh token that is good is its SHA-256.
CREATE TABLE sessions (
  session_id     TEXT    NOT NULL PRIMARY KEY,
  device_id      TEXT    NOT NULL REFERENCES devices (device_id),
  scope          TEXT    NOT NULL,
  otp            BIGINT NOT NULL, -- 1 when a one-time code was proven
  auth_time      BIGINT NOT NULL,
  expire_time    BIGINT NOT NULL, -- whatever happens
  -- The authorization code that begins it, and until when that is good.
  code_digest    BYTEA    NOT NULL UNIQUE,
  code_challenge TEXT    NOT NULL,
  code_until     BIGINT NOT NULL,
  code_used      BIGINT NOT NULL DEFAULT 0,
  -- The refresh token that is good, and until when.
  refresh_digest BYTEA,
  refresh_until  BIGINT,
  -- How the refresh token was made from the one before, so that the answer to one request can be given once more.
  retry_from     BYTEA, -- SHA-256 of the one before
  retry_key      BYTEA, -- SHA-256 of the request's Idempotency-Key
  retry_salt     BYTEA,
  retry_until    BIGINT,
  end_time       BIGINT
);

CREATE INDEX sessions_by_device ON sessions (device_id);

-- What is not believed any more though its signature is good, in the order of the commits (see counters).
CREATE TABLE revocations (
  sequence    BIGINT NOT NULL PRIMARY KEY,
  kind        TEXT    NOT NULL CHECK (kind IN ('token', 'session', 'certificate')),
  subject     TEXT    NOT NULL,
  expire_time BIGINT NOT NULL,
  UNIQUE (kind, subject)
);

CREATE TABLE counters (
  name TEXT    NOT NULL PRIMARY KEY,
  last BIGINT NOT NULL
);
INSERT INTO counters (name, last) VALUES ('revocations', 0);

-- A key is published when it is made, signs from sign_from to sign_until, and is published until expire_time. One of each use signs, and one waits.
CREATE TABLE signing_keys (
  key_id      TEXT    NOT NULL PRIMARY KEY,
  purpose     TEXT    NOT NULL CHECK (purpose IN ('access', 'transaction')),
  private_key BYTEA    NOT NULL, -- PKCS #8
  create_time BIGINT NOT NULL,
  sign_from   BIGINT,
  sign_until  BIGINT,
  expire_time BIGINT
);

CREATE TABLE device_authorities (
  certificate BYTEA    NOT NULL PRIMARY KEY,
  private_key BYTEA    NOT NULL, -- PKCS #8
  create_time BIGINT NOT NULL
);

-- What customers asked for that may take longer than a transaction token lives.
CREATE TABLE transactions (
  transaction_id TEXT    NOT NULL PRIMARY KEY,
  customer_id    TEXT    NOT NULL,
  device_id      TEXT    NOT NULL,
  scope          TEXT    NOT NULL,
  context        TEXT    NOT NULL, -- a JSON object of texts
  requester      TEXT    NOT NULL, -- a SPIFFE ID
  create_time    BIGINT NOT NULL
);

CREATE INDEX transactions_by_age ON transactions (create_time);

-- +goose StatementBegin
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation';
END;
$$;
-- +goose StatementEnd

CREATE TRIGGER devices_stay_revoked BEFORE UPDATE ON devices
  FOR EACH ROW WHEN (OLD.revoke_time IS NOT NULL) EXECUTE FUNCTION refuse('a revoked device does not change');
CREATE TRIGGER sessions_stay_ended BEFORE UPDATE ON sessions
  FOR EACH ROW WHEN (OLD.end_time IS NOT NULL) EXECUTE FUNCTION refuse('an ended session does not change');
CREATE TRIGGER transactions_stay BEFORE UPDATE ON transactions
  FOR EACH ROW EXECUTE FUNCTION refuse('what a customer asked for does not change');
