package ca

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// useJWTSVID marks a key of a JWT bundle (SPIFFE Trust Domain and Bundle §4.2.2).
const useJWTSVID = "jwt-svid"

// issuedSkew is how far in the future a token may have been issued: a clock that was set back a little.
const issuedSkew = 30 * time.Second

// IssueJWT makes a JWT-SVID (JWT-SVID §2 and §3). The audience must not be empty.
func (c *CA) IssueJWT(id spiffeid.ID, audience []string) (string, error) {
	if len(audience) == 0 || slices.Contains(audience, "") {
		return "", errors.New("a JWT-SVID needs an audience")
	}
	s, err := c.begin(jwtRing, c.config.JWTTTL)
	if err != nil {
		return "", err
	}
	expiry := seconds(s.now.Add(c.config.JWTTTL))
	if expiry.After(s.with.NotAfter) {
		expiry = s.with.NotAfter
	}
	sign, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: s.with.Key, KeyID: s.with.ID}},
		(&jose.SignerOptions{}).WithType("JWT"),
	)
	if err != nil {
		return "", fmt.Errorf("sign a JWT-SVID for %s: %w", id, err)
	}
	token, err := jwt.Signed(sign).Claims(jwt.Claims{
		Subject: id.String(), Audience: audience,
		Expiry: jwt.NewNumericDate(expiry), IssuedAt: jwt.NewNumericDate(s.now),
	}).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign a JWT-SVID for %s: %w", id, err)
	}
	return token, nil
}

// JWTBundle returns the trust domain's JWT keys as a JWKS document.
func (c *CA) JWTBundle() ([]byte, error) {
	c.mu.Lock()
	keys := c.rings.JWT
	c.mu.Unlock()
	var set jose.JSONWebKeySet
	for _, key := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: &key.Key.PublicKey, KeyID: key.ID, Use: useJWTSVID})
	}
	text, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("encode the JWT bundle: %w", err)
	}
	return text, nil
}

// ValidateJWT checks a JWT-SVID of this trust domain against one audience, and returns whose it is and all its claims. What is
// wrong with a token comes as ErrToken with the reason.
func (c *CA) ValidateJWT(token, audience string) (spiffeid.ID, map[string]any, error) {
	// The keys of this trust domain sign ES256 and nothing else, so no other algorithm is read (RFC 8725 §3.1).
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return spiffeid.ID{}, nil, fmt.Errorf("%w: not a JWT signed with ES256", ErrToken)
	}
	key, err := c.keyOf(token)
	if err != nil {
		return spiffeid.ID{}, nil, err
	}
	var standard jwt.Claims
	claims := make(map[string]any)
	if err := parsed.Claims(&key.Key.PublicKey, &standard, &claims); err != nil {
		return spiffeid.ID{}, nil, fmt.Errorf("%w: the signature or the claims are wrong", ErrToken)
	}
	id, err := c.checkClaims(standard, audience)
	return id, claims, err
}

// keyOf finds the key that a token names.
func (c *CA) keyOf(token string) (signer, error) {
	id, err := readHeader(token)
	if err != nil {
		return signer{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range c.rings.JWT {
		if key.ID == id && key.NotAfter.After(c.now()) {
			return key, nil
		}
	}
	return signer{}, fmt.Errorf("%w: it names no JWT key of the trust domain", ErrToken)
}

// readHeader returns the key ID of a token. JWT-SVID §2: the header holds alg, kid and typ, and nothing else, so that no
// token can bring or point to a key of its own.
func readHeader(token string) (kid string, err error) {
	encoded, _, _ := strings.Cut(token, ".")
	text, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return "", fmt.Errorf("%w: its header is not base64url", ErrToken)
	}
	var header struct {
		Algorithm string  `json:"alg"`
		KeyID     string  `json:"kid"`
		Type      *string `json:"typ"`
	}
	if err := strictJSON(text, &header); err != nil {
		return "", fmt.Errorf("%w: its header holds more than alg, kid and typ", ErrToken)
	}
	if header.Type != nil && *header.Type != "JWT" && *header.Type != "JOSE" {
		return "", fmt.Errorf("%w: its type is neither JWT nor JOSE", ErrToken)
	}
	return header.KeyID, nil
}

// checkClaims is JWT-SVID §3 and §4.
func (c *CA) checkClaims(claims jwt.Claims, audience string) (spiffeid.ID, error) {
	id, err := spiffeid.FromString(claims.Subject)
	now := c.now()
	switch {
	case err != nil:
		return id, fmt.Errorf("%w: its subject is no SPIFFE ID", ErrToken)
	case id.TrustDomain() != c.config.TrustDomain:
		return id, fmt.Errorf("%w: its subject is of another trust domain", ErrToken)
	case id.Path() == "":
		return id, fmt.Errorf("%w: its subject is a trust domain, not a workload", ErrToken)
	case audience == "" || !claims.Audience.Contains(audience):
		return id, fmt.Errorf("%w: it is not for this audience", ErrToken)
	case claims.Expiry == nil:
		return id, fmt.Errorf("%w: it has no expiry", ErrToken)
	case !now.Before(claims.Expiry.Time()):
		return id, fmt.Errorf("%w: it has expired", ErrToken)
	case claims.NotBefore != nil && claims.NotBefore.Time().After(now.Add(issuedSkew)):
		return id, fmt.Errorf("%w: it is not valid yet", ErrToken)
	case claims.IssuedAt != nil && claims.IssuedAt.Time().After(now.Add(issuedSkew)):
		return id, fmt.Errorf("%w: it was issued in the future", ErrToken)
	}
	return id, nil
}
