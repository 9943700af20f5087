package identity

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Revocation names whom not to believe any more. Exactly one of ID, Serial and Authority is set.
type Revocation struct {
	// ID is a workload's SPIFFE ID: every SVID of it is refused, those to come included.
	ID spiffeid.ID
	// Serial is the serial number of one SVID; see ParseSerial.
	Serial string
	// Authority is the subject key ID of a signing certificate, root or intermediate (RFC 5280 §4.2.1.2): no path that it is on is
	// believed. See ParseAuthority.
	Authority string
	// Entry is where the revocation stands, such as "bank.yaml:12". It is for errors.
	Entry string
}

// Revocations is a list of whom not to believe any more, though their certificates are good. It is immutable and safe for
// concurrent use. The nil list revokes nobody.
type Revocations struct {
	// Each says where the entry stands.
	ids         map[spiffeid.ID]string
	serials     map[string]string
	authorities map[string]string
}

// NewRevocations returns a list of these. Of two for the same the first is kept.
func NewRevocations(entries ...Revocation) *Revocations {
	r := &Revocations{ids: make(map[spiffeid.ID]string), serials: make(map[string]string), authorities: make(map[string]string)}
	for _, e := range entries {
		switch {
		case !e.ID.IsZero():
			addFirst(r.ids, e.ID, e.Entry)
		case e.Serial != "":
			addFirst(r.serials, e.Serial, e.Entry)
		case e.Authority != "":
			addFirst(r.authorities, e.Authority, e.Entry)
		}
	}
	return r
}

func addFirst[K comparable](m map[K]string, key K, entry string) {
	if _, ok := m[key]; !ok {
		m[key] = entry
	}
}

// RevokedError says that a peer is revoked, and by which entry.
type RevokedError struct {
	// What was revoked: an ID, a serial number or an authority, in words.
	What string
	// Entry is where that stands.
	Entry string
}

// Error implements error.
func (e *RevokedError) Error() string { return fmt.Sprintf("%s is revoked (%s)", e.What, e.Entry) }

// Check fails with a *RevokedError when a peer's ID or serial number is on the list. Whether its authority is depends on the path by
// which the peer is verified: that is for a Verifier to say. It allocates nothing for a peer that is not on the list.
func (r *Revocations) Check(peer *Peer) error {
	if r == nil {
		return nil
	}
	if entry, ok := r.ids[peer.ID]; ok {
		return &RevokedError{What: fmt.Sprintf("the SPIFFE ID %q", peer.ID), Entry: entry}
	}
	if entry, ok := r.serials[peer.Serial]; ok {
		return &RevokedError{What: "the SVID with the serial number " + peer.Serial, Entry: entry}
	}
	return nil
}

// checkAuthorities fails when a signer on a path, leaf first, is on the list.
func (r *Revocations) checkAuthorities(path []*x509.Certificate) error {
	if r == nil || len(r.authorities) == 0 {
		return nil
	}
	for _, cert := range path[1:] {
		key := AuthorityOf(cert)
		if entry, ok := r.authorities[key]; ok {
			return &RevokedError{What: "the authority " + key, Entry: entry}
		}
	}
	return nil
}

// checkPeer asks every list about a peer.
func (v *Verifier) checkPeer(peer *Peer) error {
	for _, current := range v.revoked {
		if err := current().Check(peer); err != nil {
			return err
		}
	}
	return nil
}

// checkSignersOf asks every list about a path.
func (v *Verifier) checkSignersOf(path []*x509.Certificate) error {
	for _, current := range v.revoked {
		if err := current().checkAuthorities(path); err != nil {
			return err
		}
	}
	return nil
}

// AuthorityOf returns the subject key ID of a signing certificate in lower-case hexadecimal.
func AuthorityOf(cert *x509.Certificate) string { return hex.EncodeToString(cert.SubjectKeyId) }

// serialOf returns the serial number of a certificate in lower-case hexadecimal.
func serialOf(cert *x509.Certificate) string { return fmt.Sprintf("%x", cert.SerialNumber) }

// ParseSerial reads a serial number in hexadecimal, with or without colons between its bytes as openssl and browsers write it, and
// returns it as Peer.Serial has it.
func ParseSerial(text string) (string, error) {
	digits := strings.ReplaceAll(text, ":", "")
	n, ok := new(big.Int).SetString(digits, 16)
	if !ok || n.Sign() <= 0 || digits[0] == '+' {
		return "", fmt.Errorf("%q is no serial number; write it in hexadecimal, such as 4f:3a:19 or 4f3a19", text)
	}
	return fmt.Sprintf("%x", n), nil
}

// ParseAuthority reads a subject key ID in hexadecimal, with or without colons between its bytes, and returns it as AuthorityOf does.
func ParseAuthority(text string) (string, error) {
	id, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	if err != nil || len(id) == 0 {
		return "", fmt.Errorf("%q is no subject key ID; write it in hexadecimal, such as 9c:1d:07 or 9c1d07", text)
	}
	return hex.EncodeToString(id), nil
}
