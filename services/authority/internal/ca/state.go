package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// The state file's format. A reader refuses a version that it does not know.
const (
	stateFormat  = "countersign-authority-state"
	stateVersion = 1
)

// errDamaged is what is wrong with a file whose content cannot be what was written.
var errDamaged = errors.New("the file is damaged")

// envelope is the file: the state and the sum over its bytes as they stand there.
type envelope struct {
	Format  string          `json:"format"`
	Version int             `json:"version"`
	SHA256  string          `json:"sha256"`
	State   json.RawMessage `json:"state"`
}

type stateJSON struct {
	TrustDomain string       `json:"trust_domain"`
	Saved       time.Time    `json:"saved"`
	X509        []signerJSON `json:"x509"`
	JWT         []signerJSON `json:"jwt"`
}

type signerJSON struct {
	ID          string        `json:"id"`
	Phase       phase         `json:"phase"`
	Key         []byte        `json:"key"`
	Certificate []byte        `json:"certificate,omitempty"`
	NotBefore   time.Time     `json:"not_before"`
	NotAfter    time.Time     `json:"not_after"`
	Prepared    time.Time     `json:"prepared"`
	Activated   time.Time     `json:"activated,omitzero"`
	Retired     time.Time     `json:"retired,omitzero"`
	LongestTTL  time.Duration `json:"longest_ttl_nanoseconds"`
}

// encodeState returns the text of the state file.
func encodeState(td spiffeid.TrustDomain, r rings, saved time.Time) ([]byte, error) {
	state := stateJSON{TrustDomain: td.Name(), Saved: saved.UTC()}
	for list, keys := range map[*[]signerJSON]ring{&state.X509: r.X509, &state.JWT: r.JWT} {
		for _, key := range keys {
			encoded, err := encodeSigner(key)
			if err != nil {
				return nil, err
			}
			*list = append(*list, encoded)
		}
	}
	inner, err := json.Marshal(state)
	if err != nil {
		return nil, fmt.Errorf("encode the state: %w", err)
	}
	sum := sha256.Sum256(inner)
	text, err := json.Marshal(envelope{
		Format: stateFormat, Version: stateVersion, SHA256: hex.EncodeToString(sum[:]), State: inner,
	})
	if err != nil {
		return nil, fmt.Errorf("encode the state: %w", err)
	}
	return append(text, '\n'), nil
}

func encodeSigner(s signer) (signerJSON, error) {
	key, err := x509.MarshalPKCS8PrivateKey(s.Key)
	if err != nil {
		return signerJSON{}, fmt.Errorf("encode a signing key: %w", err)
	}
	encoded := signerJSON{
		ID: s.ID, Phase: s.Phase, Key: key, NotBefore: s.NotBefore.UTC(), NotAfter: s.NotAfter.UTC(),
		Prepared: s.Prepared.UTC(), Activated: s.Activated.UTC(), Retired: s.Retired.UTC(), LongestTTL: s.LongestTTL,
	}
	if s.Cert != nil {
		encoded.Certificate = s.Cert.Raw
	}
	return encoded, nil
}

// decodeState reads the text of a state file and believes nothing of it before it was checked.
func decodeState(text []byte, td spiffeid.TrustDomain) (rings, error) {
	var file envelope
	if err := strictJSON(text, &file); err != nil {
		return rings{}, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if file.Format != stateFormat {
		return rings{}, fmt.Errorf("%w: its format is %q, not %q", errDamaged, file.Format, stateFormat)
	}
	if file.Version != stateVersion {
		return rings{}, fmt.Errorf("the file has version %d of the format; this program knows version %d", file.Version, stateVersion)
	}
	if sum := sha256.Sum256(file.State); hex.EncodeToString(sum[:]) != file.SHA256 {
		return rings{}, fmt.Errorf("%w: its checksum does not fit its content", errDamaged)
	}
	return decodeInner(file.State, td)
}

func decodeInner(inner []byte, td spiffeid.TrustDomain) (rings, error) {
	var state stateJSON
	if err := strictJSON(inner, &state); err != nil {
		return rings{}, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if state.TrustDomain != td.Name() {
		return rings{}, fmt.Errorf("the file holds the trust domain %q, not %q", state.TrustDomain, td.Name())
	}
	x509Keys, err := decodeRing(state.X509, kindX509, td)
	if err != nil {
		return rings{}, err
	}
	jwtKeys, err := decodeRing(state.JWT, kindJWT, td)
	if err != nil {
		return rings{}, err
	}
	return rings{X509: x509Keys, JWT: jwtKeys}, nil
}

func decodeRing(list []signerJSON, of kind, td spiffeid.TrustDomain) (ring, error) {
	var r ring
	phases, ids := make(map[phase]int), make(map[string]int)
	for i, encoded := range list {
		key, err := decodeSigner(encoded, of, td)
		if err != nil {
			return nil, fmt.Errorf("%w: %s key %d: %w", errDamaged, of, i, err)
		}
		phases[key.Phase]++
		ids[key.ID]++
		r = append(r, key)
	}
	if phases[phaseActive] != 1 || phases[phasePrepared] > 1 || len(ids) != len(r) {
		return nil, fmt.Errorf("%w: of the %s keys %d are active, %d prepared, %d different of %d", errDamaged,
			of, phases[phaseActive], phases[phasePrepared], len(ids), len(r))
	}
	return r, nil
}

func decodeSigner(encoded signerJSON, of kind, td spiffeid.TrustDomain) (signer, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(encoded.Key)
	if err != nil {
		return signer{}, fmt.Errorf("read the private key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return signer{}, errors.New("the private key is not on P-256")
	}
	id, err := keyID(&key.PublicKey)
	if err != nil {
		return signer{}, err
	}
	switch encoded.Phase {
	case phasePrepared, phaseActive, phaseOld:
	default:
		return signer{}, fmt.Errorf("phase %q is unknown", encoded.Phase)
	}
	if hex.EncodeToString(id) != encoded.ID {
		return signer{}, errors.New("the ID is another key's")
	}
	if !encoded.NotBefore.Before(encoded.NotAfter) || encoded.LongestTTL < 0 || encoded.LongestTTL > MaxTTL {
		return signer{}, errors.New("its times are impossible")
	}
	s := signer{
		ID: encoded.ID, Phase: encoded.Phase, Key: key, NotBefore: encoded.NotBefore, NotAfter: encoded.NotAfter,
		Prepared: encoded.Prepared, Activated: encoded.Activated, Retired: encoded.Retired, LongestTTL: encoded.LongestTTL,
	}
	if of == kindX509 {
		s.Cert, err = decodeCertificate(encoded, key, td)
	}
	return s, err
}

func decodeCertificate(encoded signerJSON, key *ecdsa.PrivateKey, td spiffeid.TrustDomain) (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(encoded.Certificate)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	switch {
	case !key.PublicKey.Equal(cert.PublicKey):
		return nil, errors.New("the certificate is another key's")
	case !cert.IsCA || len(cert.URIs) != 1 || cert.URIs[0].String() != td.IDString():
		return nil, errors.New("the certificate is no authority of the trust domain")
	case !cert.NotBefore.Equal(encoded.NotBefore) || !cert.NotAfter.Equal(encoded.NotAfter):
		return nil, errors.New("the certificate's times are not the key's")
	}
	if err := cert.CheckSignatureFrom(cert); err != nil {
		return nil, fmt.Errorf("the certificate is not self-signed: %w", err)
	}
	return cert, nil
}

// strictJSON reads one JSON value without unknown fields and with nothing after it.
func strictJSON(text []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows after the end")
	}
	return nil
}
