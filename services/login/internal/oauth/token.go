package oauth

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/countersign-mesh/countersign/services/login/internal/device"
	"github.com/countersign-mesh/countersign/services/login/internal/grant"
)

type tokens struct {
	Access  string `json:"access_token"`
	Type    string `json:"token_type"`
	Expires int    `json:"expires_in"`
	Refresh string `json:"refresh_token"`
	Scope   string `json:"scope"`
}

// token is the token endpoint (RFC 6749 §3.2).
func (h *Handler) token(ctx context.Context, r *http.Request) (any, error) {
	f, err := form(r)
	if err != nil {
		return nil, err
	}
	d, err := h.limitedClient(ctx, r, f.Get("client_id"))
	if err != nil {
		return nil, err
	}
	granted, err := h.grant(ctx, r, d, f)
	if err != nil {
		return nil, err
	}
	return tokens{
		Access: granted.Access, Type: "Bearer", Expires: int(grant.AccessLifetime.Seconds()), Refresh: granted.Refresh, Scope: strings.Join(granted.Scopes, " "),
	}, nil
}

func (h *Handler) grant(ctx context.Context, r *http.Request, d device.Device, f url.Values) (grant.Tokens, error) {
	switch f.Get("grant_type") {
	case "authorization_code":
		if !is(verifierPattern, f.Get("code_verifier")) {
			return grant.Tokens{}, invalid("there is no code_verifier (RFC 7636 §4.5)")
		}
		granted, err := h.Grants.Exchange(ctx, d, f.Get("code"), f.Get("code_verifier"))
		h.tell(err)
		return granted, err
	case "refresh_token":
		var asked []string
		if f.Has("scope") {
			var err error
			if asked, err = scopes(f.Get("scope")); err != nil {
				return grant.Tokens{}, err
			}
		}
		retryKey := r.Header.Get("Idempotency-Key")
		if len(r.Header.Values("Idempotency-Key")) > 1 || retryKey != "" && !is(retryKeyPattern, retryKey) {
			return grant.Tokens{}, invalid("the Idempotency-Key is not one of 16 to 128 characters")
		}
		granted, err := h.Grants.Refresh(ctx, d, f.Get("refresh_token"), retryKey, asked)
		h.tell(err)
		return granted, err
	case "":
		return grant.Tokens{}, invalid("there is no grant_type")
	default:
		return grant.Tokens{}, problem{status: http.StatusBadRequest, Code: "unsupported_grant_type"}
	}
}

// limitedClient authenticates the client of a request, and has it wait if it asks too often. Whoever is not that client takes nothing from it.
func (h *Handler) limitedClient(ctx context.Context, r *http.Request, clientID string) (device.Device, error) {
	d, err := h.client(ctx, r, clientID)
	if err != nil {
		return device.Device{}, err
	}
	if wait := h.limits.tokens.Take(d.ID); wait > 0 {
		return device.Device{}, tooMany(wait)
	}
	return d, nil
}

// tell makes watchers look whether a grant that was refused has ended a session. What ended though the outcome is not known they find by themselves (revocation.Feed).
func (h *Handler) tell(err error) {
	if errors.Is(err, grant.ErrGrant) {
		h.Revoked()
	}
}

// revoke is the revocation endpoint (RFC 7009). A token that is not good is answered like one that was.
func (h *Handler) revoke(ctx context.Context, r *http.Request) (any, error) {
	f, err := form(r)
	if err != nil {
		return nil, err
	}
	d, err := h.limitedClient(ctx, r, f.Get("client_id"))
	if err != nil {
		return nil, err
	}
	if f.Get("token") == "" {
		return nil, invalid("there is no token")
	}
	if err := h.Grants.Revoke(ctx, d, f.Get("token")); err != nil {
		return nil, err
	}
	h.Revoked()
	return nil, nil //nolint:nilnil // RFC 7009 §2.2: the answer has no content
}
