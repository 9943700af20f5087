-- Every payment that was assessed, with its verdict: the memory that velocity is measured against, and that a repeated question is
-- answered from. The SQLite schema is the same but for its types.

-- +goose Up
CREATE TABLE assessments (
    payment_id        TEXT   NOT NULL PRIMARY KEY,
    payer_customer_id TEXT   NOT NULL,
    payer_account_id  TEXT   NOT NULL,
    payee_account_id  TEXT   NOT NULL,
    currency_code     TEXT   NOT NULL CHECK (length(currency_code) = 3),
    minor_units       BIGINT NOT NULL CHECK (minor_units > 0),
    verdict           TEXT   NOT NULL CHECK (verdict IN ('allow', 'hold', 'refuse')),
    assess_time       BIGINT NOT NULL, -- microseconds since 1970 UTC
    rules_version     TEXT   NOT NULL  -- of the rules that the verdict follows from
);

CREATE TABLE reasons (
    payment_id TEXT   NOT NULL REFERENCES assessments (payment_id),
    position   BIGINT NOT NULL, -- in the order in which the rules spoke
    code       TEXT   NOT NULL,
    message    TEXT   NOT NULL,
    PRIMARY KEY (payment_id, position)
);

-- A sum over a window reads nothing but one stretch of one of these.
CREATE INDEX paid_by_account ON assessments (payer_account_id, assess_time, currency_code, minor_units, verdict) WHERE verdict <> 'refuse';
CREATE INDEX paid_by_customer ON assessments (payer_customer_id, assess_time, currency_code, minor_units, verdict) WHERE verdict <> 'refuse';
