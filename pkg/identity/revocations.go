package identity

import (
	"crypto/sha1" //nolint:gosec // see namesOf
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Revocation names whom not to believe any more. Exactly one of ID, Serial and Authority is set.
type Revocation struct {
	// ID is a workload's SPIFFE ID: every SVID of it is refused, those to come included.
	ID spiffeid.ID
	// Serial is the serial number of an SVID, whoever issued it; see ParseSerial.
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

// NewRevocations returns a list of these. Serial numbers and authorities are read as ParseSerial and ParseAuthority read them. It fails when an entry
// has not exactly one of ID, Serial and Authority: one that names nobody is a mistake that would go unnoticed. Of two for the same the first is kept.
func NewRevocations(entries ...Revocation) (*Revocations, error) {
	r := &Revocations{ids: make(map[spiffeid.ID]string), serials: make(map[string]string), authorities: make(map[string]string)}
	for _, e := range entries {
		if err := r.add(e); err != nil {
			return nil, fmt.Errorf("revocation %q: %w", e.Entry, err)
		}
	}
	return r, nil
}

func (r *Revocations) add(e Revocation) error {
	switch {
	case !e.ID.IsZero() && e.Serial == "" && e.Authority == "":
		addFirst(r.ids, e.ID, e.Entry)
	case e.ID.IsZero() && e.Serial != "" && e.Authority == "":
		serial, err := ParseSerial(e.Serial)
		if err != nil {
			return err
		}
		addFirst(r.serials, serial, e.Entry)
	case e.ID.IsZero() && e.Serial == "" && e.Authority != "":
		authority, err := ParseAuthority(e.Authority)
		if err != nil {
			return err
		}
		addFirst(r.authorities, authority, e.Entry)
	default:
		return errors.New("it must have one of ID, Serial and Authority")
	}
	return nil
}

func addFirst[K comparable](m map[K]string, key K, entry string) {
	if _, ok := m[key]; !ok {
		m[key] = entry
	}
}

// Entries returns what is on the list: IDs, then serial numbers, then authorities, each in order.
func (r *Revocations) Entries() []Revocation {
	if r == nil {
		return nil
	}
	var entries []Revocation
	byName := func(a, b spiffeid.ID) int { return strings.Compare(a.String(), b.String()) }
	for _, id := range slices.SortedFunc(maps.Keys(r.ids), byName) {
		entries = append(entries, Revocation{ID: id, Entry: r.ids[id]})
	}
	for _, serial := range slices.Sorted(maps.Keys(r.serials)) {
		entries = append(entries, Revocation{Serial: serial, Entry: r.serials[serial]})
	}
	for _, authority := range slices.Sorted(maps.Keys(r.authorities)) {
		entries = append(entries, Revocation{Authority: authority, Entry: r.authorities[authority]})
	}
	return entries
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
		for _, key := range namesOf(cert) {
			if entry, ok := r.authorities[key]; ok {
				return &RevokedError{What: "the authority " + key, Entry: entry}
			}
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

// AuthorityOf returns the subject key ID of a signing certificate in lower-case hexadecimal; of one that has none, the SHA-1 of its public key
// (RFC 5280 §4.2.1.2, method 1).
func AuthorityOf(cert *x509.Certificate) string { return namesOf(cert)[0] }

// namesOf returns every name that the key of a signing certificate goes by: what the certificate says, and what follows from the key (RFC 5280
// §4.2.1.2 method 1, RFC 7093 §2 method 1). The same key may be in two certificates that name it differently.
func namesOf(cert *x509.Certificate) []string {
	var names []string
	if len(cert.SubjectKeyId) > 0 {
		names = append(names, hex.EncodeToString(cert.SubjectKeyId))
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	key := cert.RawSubjectPublicKeyInfo
	if _, err := asn1.Unmarshal(key, &info); err == nil { // a certificate that was parsed has a key that parses
		key = info.Key.RightAlign()
	}
	short := sha1.Sum(key) //nolint:gosec // it names a key that is believed already, it proves nothing
	long := sha256.Sum256(key)
	return append(names, hex.EncodeToString(short[:]), hex.EncodeToString(long[:20]))
}

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
