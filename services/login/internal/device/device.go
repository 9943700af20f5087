package device

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/countersign-mesh/countersign/services/login/internal/customer"
)

var (
	// ErrUnknown is returned for a device that is not there.
	ErrUnknown = errors.New("no such device")
	// ErrNotGood is returned for a client whose certificate is not that of a device which is good.
	ErrNotGood = errors.New("the certificate is not the client's, or the device is not good any more")
	// ErrKeyKnown is returned for a key that a device has already.
	ErrKeyKnown = errors.New("the key is that of a device already; make a new one")
	// ErrTooMany is returned to a customer who has as many devices as there may be.
	ErrTooMany = errors.New("the customer has too many devices; have one revoked first")
)

// Most is how many devices a customer has at most.
const Most = 20

// Device is one device of a customer.
type Device struct {
	ID, CustomerID, Name string
	// Serial is the serial number of its certificate, in lower-case hexadecimal.
	Serial      string
	Certificate []byte // DER
	KeyDigest   []byte
	Enrolled    time.Time
	Expires     time.Time
	Revoked     time.Time // zero while it is good
}

// Good reports whether the device's certificate is to be believed at a time.
func (d Device) Good(now time.Time) bool { return d.Revoked.IsZero() && now.Before(d.Expires) }

// Store keeps devices.
type Store interface {
	// AddDevice stores a device and uses up the one-time code of proof. It fails with customer.ErrWrong, ErrKeyKnown or ErrTooMany. At the limit, the oldest device that
	// is not good any more makes room.
	AddDevice(ctx context.Context, d Device, proof customer.Proof) error
	// Device returns a device, or ErrUnknown.
	Device(ctx context.Context, id string) (Device, error)
	// Devices returns a customer's devices, oldest first.
	Devices(ctx context.Context, customerID string) ([]Device, error)
	// RevokeDevice revokes a device and ends its sessions, once, and returns it; or ErrUnknown.
	RevokeDevice(ctx context.Context, id string, at time.Time) (Device, error)
}

// Registry is the register of devices. It is safe for concurrent use.
type Registry struct {
	store     Store
	authority *Authority
	now       func() time.Time
}

// New returns a Registry.
func New(store Store, authority *Authority, now func() time.Time) *Registry {
	return &Registry{store: store, authority: authority, now: now}
}

// Enrol makes a device known and certifies its key.
func (r *Registry) Enrol(ctx context.Context, proof customer.Proof, request *x509.CertificateRequest, name string) (Device, error) {
	if proof.Step == 0 {
		return Device{}, customer.ErrWrong
	}
	now := r.now()
	id := "dev-" + strings.ToLower(rand.Text())
	cert, err := r.authority.issue(id, request, now)
	if err != nil {
		return Device{}, fmt.Errorf("certify a device: %w", err)
	}
	d := Device{
		ID: id, CustomerID: proof.CustomerID, Name: name, Serial: fmt.Sprintf("%x", cert.SerialNumber), Certificate: cert.Raw, KeyDigest: digest(request),
		Enrolled: now, Expires: cert.NotAfter,
	}
	return d, r.store.AddDevice(ctx, d, proof)
}

// Authenticate returns the device that calls itself clientID and has proven to have the key of cert (RFC 8705 §2.1). A connection may be older than a revocation and outlast the
// certificate, so both are looked at for each request.
func (r *Registry) Authenticate(ctx context.Context, clientID string, cert *x509.Certificate) (Device, error) {
	if cert == nil || cert.Subject.CommonName != clientID {
		return Device{}, ErrNotGood
	}
	d, err := r.store.Device(ctx, clientID)
	if errors.Is(err, ErrUnknown) {
		return Device{}, ErrNotGood
	}
	if err != nil {
		return Device{}, err
	}
	if !d.Good(r.now()) || !bytes.Equal(d.Certificate, cert.Raw) {
		return Device{}, ErrNotGood
	}
	return d, nil
}

// Get returns a device, or ErrUnknown.
func (r *Registry) Get(ctx context.Context, id string) (Device, error) {
	return r.store.Device(ctx, id)
}

// List returns a customer's devices, oldest first.
func (r *Registry) List(ctx context.Context, customerID string) ([]Device, error) {
	return r.store.Devices(ctx, customerID)
}

// Revoke ends a device for good. Revoking a revoked one changes nothing.
func (r *Registry) Revoke(ctx context.Context, id string) (Device, error) {
	return r.store.RevokeDevice(ctx, id, r.now())
}
