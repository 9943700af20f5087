package grant

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/countersign-mesh/countersign/services/login/internal/device"
)

const (
	// AccessLifetime is how long an access token is good.
	AccessLifetime = 5 * time.Minute
	// Leeway is how much later others may still believe a token, whose clocks are behind.
	Leeway = time.Minute

	// ACRDevice is a log-in with a device and a password.
	ACRDevice = "urn:bank:acr:1"
	// ACROneTime is one with a one-time code as well.
	ACROneTime = "urn:bank:acr:2"
)

// Scopes are those that there are.
func Scopes() []string {
	return []string{"accounts.read", "accounts.open", "accounts.close", "transfer"}
}

// claims are those of an access token (RFC 9068 §2.2) that is bound to a certificate (RFC 8705 §3.1).
type claims struct {
	Issuer   string `json:"iss"`
	Audience string `json:"aud"`
	Expires  int64  `json:"exp"`
	Issued   int64  `json:"iat"`
	AuthTime int64  `json:"auth_time"`
	Subject  string `json:"sub"`
	Client   string `json:"client_id"`
	TokenID  string `json:"jti"`
	Session  string `json:"sid"`
	Scope    string `json:"scope"`
	ACR      string `json:"acr"`
	Confirm  struct {
		Thumbprint string `json:"x5t#S256"`
	} `json:"cnf"`
}

// Signer gives the key that signs at the moment.
type Signer interface {
	Signer() (jose.JSONWebKey, error)
}

// minter makes access tokens.
type minter struct {
	issuer, audience string
	keys             Signer
	now              func() time.Time
}

// mint returns an access token of a session for its device.
func (m *minter) mint(s Session, d device.Device, scopes []string) (string, error) {
	now := m.now()
	c := claims{
		Issuer: m.issuer, Audience: m.audience, Issued: now.Unix(), Expires: now.Add(AccessLifetime).Unix(), AuthTime: s.AuthTime.Unix(),
		Subject: d.CustomerID, Client: d.ID, TokenID: rand.Text(), Session: s.ID, Scope: strings.Join(scopes, " "), ACR: ACRDevice,
	}
	if s.OTP && now.Before(s.AuthTime.Add(otpLifetime)) {
		c.ACR = ACROneTime
	}
	thumbprint := sha256.Sum256(d.Certificate)
	c.Confirm.Thumbprint = base64.RawURLEncoding.EncodeToString(thumbprint[:])
	key, err := m.keys.Signer()
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithType("at+jwt"))
	if err != nil {
		return "", fmt.Errorf("sign an access token: %w", err)
	}
	token, err := jwt.Signed(signer).Claims(c).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign an access token: %w", err)
	}
	return token, nil
}
