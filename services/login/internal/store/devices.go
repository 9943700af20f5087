package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/login/internal/customer"
	"github.com/countersign-mesh/countersign/services/login/internal/device"
	"github.com/countersign-mesh/countersign/services/login/internal/grant"
	"github.com/countersign-mesh/countersign/services/login/internal/revocation"
)

const deviceColumns = `device_id, customer_id, name, serial, certificate, key_digest, enrol_time, expire_time, revoke_time`

func scanDevice(row scanner) (d device.Device, err error) {
	var enrolled, expires, revoked sql.NullInt64
	err = row.Scan(&d.ID, &d.CustomerID, &d.Name, &d.Serial, &d.Certificate, &d.KeyDigest, &enrolled, &expires, &revoked)
	d.Enrolled, d.Expires, d.Revoked = moment(enrolled), moment(expires), moment(revoked)
	return d, err
}

// AddDevice implements device.Store.
func (s *Store) AddDevice(ctx context.Context, d device.Device, proof customer.Proof) error {
	return database.InTx(ctx, s.db, func(tx *sql.Tx) error {
		if err := useUp(ctx, tx, proof); err != nil {
			return err
		}
		var known int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM devices WHERE key_digest = $1`, d.KeyDigest).Scan(&known); err != nil {
			return wrap("look for a device", err)
		}
		if known > 0 {
			return device.ErrKeyKnown
		}
		if err := makeRoom(ctx, tx, d.CustomerID, d.Enrolled); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `
			INSERT INTO devices (device_id, customer_id, name, serial, certificate, key_digest, enrol_time, expire_time)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			d.ID, d.CustomerID, d.Name, d.Serial, d.Certificate, d.KeyDigest, micros(d.Enrolled), micros(d.Expires))
		return wrap("store a device", err)
	})
}

// makeRoom removes the oldest device that is not good any more from a customer who has as many as there may be. That its certificate is revoked
// is written elsewhere.
func makeRoom(ctx context.Context, tx *sql.Tx, customerID string, now time.Time) error {
	devices, err := devicesOf(ctx, tx, customerID)
	if err != nil || len(devices) < device.Most {
		return err
	}
	for _, d := range devices {
		if d.Good(now) {
			continue
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM sessions WHERE device_id = $1`, d.ID); err != nil {
			return wrap("remove the sessions of a device", err)
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM devices WHERE device_id = $1`, d.ID)
		return wrap("remove a device", err)
	}
	return device.ErrTooMany
}

// Device implements device.Store.
func (s *Store) Device(ctx context.Context, id string) (device.Device, error) {
	return deviceByID(ctx, s.db, id)
}

func deviceByID(ctx context.Context, from querier, id string) (device.Device, error) {
	d, err := scanDevice(from.QueryRowContext(ctx, `SELECT `+deviceColumns+` FROM devices WHERE device_id = $1`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return device.Device{}, device.ErrUnknown
	}
	return d, wrap("read a device", err)
}

// Devices implements device.Store.
func (s *Store) Devices(ctx context.Context, customerID string) ([]device.Device, error) {
	return devicesOf(ctx, s.db, customerID)
}

func devicesOf(ctx context.Context, from querier, customerID string) ([]device.Device, error) {
	devices, err := collect(ctx, from, scanDevice,
		`SELECT `+deviceColumns+` FROM devices WHERE customer_id = $1 ORDER BY enrol_time, device_id`, customerID)
	return devices, wrap("list devices", err)
}

// RevokeDevice implements device.Store.
func (s *Store) RevokeDevice(ctx context.Context, id string, at time.Time) (d device.Device, err error) {
	err = database.InTx(ctx, s.db, func(tx *sql.Tx) error {
		if d, err = deviceByID(ctx, tx, id); err != nil || !d.Revoked.IsZero() {
			return err
		}
		d.Revoked = at.Truncate(time.Microsecond).UTC()
		if _, err := tx.ExecContext(ctx, `UPDATE devices SET revoke_time = $1 WHERE device_id = $2`, micros(at), id); err != nil {
			return wrap("revoke a device", err)
		}
		if _, err := tx.ExecContext(ctx, `UPDATE sessions SET end_time = $1 WHERE device_id = $2 AND end_time IS NULL`, micros(at), id); err != nil {
			return wrap("end the sessions of a device", err)
		}
		return revoke(ctx, tx, revocation.Revocation{Kind: revocation.Certificate, Subject: d.Serial, Expires: d.Expires.Add(grant.Leeway)})
	})
	return d, err
}

// EnsureRoot implements device.Roots.
func (s *Store) EnsureRoot(ctx context.Context, fresh device.Root) (roots []device.Root, err error) {
	err = database.InTx(ctx, s.db, func(tx *sql.Tx) error {
		roots, err = collect(ctx, tx, scanRoot, `SELECT certificate, private_key, create_time FROM device_authorities ORDER BY create_time`)
		if err != nil || len(roots) > 0 {
			return wrap("read the device authority", err)
		}
		roots = []device.Root{fresh}
		_, err = tx.ExecContext(ctx, `INSERT INTO device_authorities (certificate, private_key, create_time) VALUES ($1, $2, $3)`,
			fresh.Certificate, fresh.Key, micros(fresh.Created))
		return wrap("store the device authority", err)
	})
	return roots, err
}

func scanRoot(row scanner) (r device.Root, err error) {
	var created sql.NullInt64
	err = row.Scan(&r.Certificate, &r.Key, &created)
	r.Created = moment(created)
	return r, err
}
