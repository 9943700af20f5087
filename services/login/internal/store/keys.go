package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/login/internal/keys"
	"github.com/countersign-mesh/countersign/services/login/internal/transaction"
)

// PlanKeys implements keys.Store.
func (s *Store) PlanKeys(ctx context.Context, purpose keys.Purpose, plan func([]keys.Key) ([]keys.Key, error)) (planned []keys.Key, err error) {
	err = database.InTx(ctx, s.db, func(tx *sql.Tx) error {
		there, err := collect(ctx, tx, scanKey, `
			SELECT key_id, purpose, private_key, create_time, sign_from, sign_until, expire_time FROM signing_keys
			WHERE purpose = $1 ORDER BY create_time, key_id`, string(purpose))
		if err != nil {
			return wrap("read signing keys", err)
		}
		if planned, err = plan(there); err != nil {
			return err
		}
		return storeKeys(ctx, tx, there, planned)
	})
	return planned, err
}

// storeKeys writes what differs.
func storeKeys(ctx context.Context, tx *sql.Tx, there, planned []keys.Key) error {
	for _, k := range there {
		if slices.ContainsFunc(planned, func(p keys.Key) bool { return p.ID == k.ID }) {
			continue
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM signing_keys WHERE key_id = $1`, k.ID); err != nil {
			return wrap("remove a signing key", err)
		}
	}
	for _, k := range planned {
		i := slices.IndexFunc(there, func(t keys.Key) bool { return t.ID == k.ID })
		if i >= 0 && there[i].From.Equal(k.From) && there[i].Until.Equal(k.Until) {
			continue
		}
		_, err := tx.ExecContext(ctx, `
			INSERT INTO signing_keys (key_id, purpose, private_key, create_time, sign_from, sign_until, expire_time) VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT (key_id) DO UPDATE SET sign_from = excluded.sign_from, sign_until = excluded.sign_until, expire_time = excluded.expire_time`,
			k.ID, string(k.Purpose), k.Private, micros(k.Created), micros(k.From), micros(k.Until), micros(k.Expires))
		if err != nil {
			return wrap("store a signing key", err)
		}
	}
	return nil
}

func scanKey(row scanner) (k keys.Key, err error) {
	var created, from, until, expires sql.NullInt64
	err = row.Scan(&k.ID, &k.Purpose, &k.Private, &created, &from, &until, &expires)
	k.Created, k.From, k.Until, k.Expires = moment(created), moment(from), moment(until), moment(expires)
	return k, err
}

// AddTransaction implements transaction.Store.
func (s *Store) AddTransaction(ctx context.Context, t transaction.Transaction) error {
	content, err := json.Marshal(t.Context)
	if err != nil {
		return fmt.Errorf("write the content of a transaction: %w", err)
	}
	return database.InTx(ctx, s.db, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `
			INSERT INTO transactions (transaction_id, customer_id, device_id, scope, context, requester, create_time) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			t.ID, t.CustomerID, t.DeviceID, t.Scope, string(content), t.Requester, micros(t.Created))
		return wrap("store a transaction", err)
	})
}

// Transaction implements transaction.Store.
func (s *Store) Transaction(ctx context.Context, id string, since time.Time) (transaction.Transaction, error) {
	t := transaction.Transaction{ID: id}
	var content string
	var created sql.NullInt64
	err := s.db.QueryRowContext(ctx, `
		SELECT customer_id, device_id, scope, context, requester, create_time FROM transactions WHERE transaction_id = $1 AND create_time >= $2`, id, since.UnixMicro()).
		Scan(&t.CustomerID, &t.DeviceID, &t.Scope, &content, &t.Requester, &created)
	if errors.Is(err, sql.ErrNoRows) {
		return transaction.Transaction{}, transaction.ErrUnknown
	}
	if err == nil {
		err = json.Unmarshal([]byte(content), &t.Context)
	}
	t.Created = moment(created)
	return t, wrap("read a transaction", err)
}

// Prune removes what nobody can use or ask for any more.
func (s *Store) Prune(ctx context.Context, now time.Time) error {
	return database.InTx(ctx, s.db, func(tx *sql.Tx) error {
		for _, old := range []struct {
			what, query string
			before      time.Time
		}{
			{"sessions", `DELETE FROM sessions WHERE expire_time < $1 OR end_time < $1 OR code_used = 0 AND code_until < $1 OR refresh_until < $1`, now.Add(-time.Hour)},
			{"revocations", `DELETE FROM revocations WHERE expire_time < $1`, now},
			{"transactions", `DELETE FROM transactions WHERE create_time < $1`, now.Add(-transaction.Keep)},
		} {
			if _, err := tx.ExecContext(ctx, old.query, old.before.UnixMicro()); err != nil {
				return wrap("remove old "+old.what, err)
			}
		}
		return nil
	})
}
