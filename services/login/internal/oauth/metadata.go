package oauth

import (
	"encoding/json"

	"github.com/countersign-mesh/countersign/services/login/internal/grant"
)

// Where the endpoints are, below the issuer.
const (
	pathKeys      = "/jwks.json"
	pathEnrol     = "/enrol"
	pathChallenge = "/authorize-challenge"
	pathToken     = "/token"
	pathRevoke    = "/revoke"
)

// metadata is the document of RFC 8414 §2. There is no authorization endpoint: what begins a code grant is the authorization challenge endpoint, which gives a code and nothing else.
func metadata(issuer string) ([]byte, error) {
	certificate := []string{"tls_client_auth"} // RFC 8705 §2.1.1
	return json.Marshal(map[string]any{
		"issuer":                                     issuer,
		"authorization_challenge_endpoint":           issuer + pathChallenge,
		"token_endpoint":                             issuer + pathToken,
		"revocation_endpoint":                        issuer + pathRevoke,
		"device_enrolment_endpoint":                  issuer + pathEnrol, // our own
		"jwks_uri":                                   issuer + pathKeys,
		"scopes_supported":                           grant.Scopes(),
		"acr_values_supported":                       []string{grant.ACRDevice, grant.ACROneTime},
		"response_types_supported":                   []string{"code"},
		"grant_types_supported":                      []string{"authorization_code", "refresh_token"},
		"token_endpoint_auth_methods_supported":      certificate,
		"revocation_endpoint_auth_methods_supported": certificate,
		"code_challenge_methods_supported":           []string{"S256"},
		"tls_client_certificate_bound_access_tokens": true, // RFC 8705 §3.3
	})
}
