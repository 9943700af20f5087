// Package oauth is the HTTPS side of the authorization server, for customers' devices: OAuth 2.0 (RFC 6749) with clients that are authenticated by their certificates and tokens
// that are bound to them (RFC 8705), the authorization challenge endpoint of draft-ietf-oauth-first-party-apps, revocation (RFC 7009), the documents of RFC 8414 and RFC 7517, and the
// enrolment of devices.
package oauth

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-mesh/countersign/services/login/internal/customer"
	"github.com/countersign-mesh/countersign/services/login/internal/device"
	"github.com/countersign-mesh/countersign/services/login/internal/grant"
	"github.com/countersign-mesh/countersign/services/login/internal/limit"
)

const (
	// maxBody is more than any request here needs.
	maxBody = 16 << 10
	// handleTimeout bounds a request from when it was read.
	handleTimeout = 10 * time.Second
)

// Customers proves who somebody is.
type Customers interface {
	Authenticate(ctx context.Context, username, password, otp string) (customer.Proof, error)
}

// Devices enrols and authenticates devices.
type Devices interface {
	Enrol(ctx context.Context, proof customer.Proof, request *x509.CertificateRequest, name string) (device.Device, error)
	Authenticate(ctx context.Context, clientID string, cert *x509.Certificate) (device.Device, error)
}

// Grants grants.
type Grants interface {
	Authorize(ctx context.Context, r grant.Request, proof customer.Proof) (code string, err error)
	Exchange(ctx context.Context, d device.Device, code, verifier string) (grant.Tokens, error)
	Refresh(ctx context.Context, d device.Device, token, retryKey string, scopes []string) (grant.Tokens, error)
	Revoke(ctx context.Context, d device.Device, token string) error
}

// Parts is what a Handler is made of.
type Parts struct {
	Issuer    string
	Customers Customers
	Devices   Devices
	Grants    Grants
	// Authorities are the device authority's certificates, in DER.
	Authorities [][]byte
	// Keys returns the public keys of access tokens, as a JWK Set.
	Keys func() []byte
	// Revoked is called when something was revoked.
	Revoked func()
	Now     func() time.Time
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Handler serves devices. It is safe for concurrent use.
type Handler struct {
	Parts
	mux      *http.ServeMux
	metadata []byte
	requests *prometheus.CounterVec
	limits   limits
}

// limits are of attempts at passwords and codes, for each of which a process computes for long. Those of devices are apart from those of user names: whoever enrols may be anybody, with any name,
// and keeps no device out that is enrolled. And they are of what a device asks for with a code or a token: it reads the database, and has others read it.
type limits struct {
	enrol, login attempts
	tokens       *limit.Limiter
}

// attempts are limited for each who makes them, and for all together.
type attempts struct{ each, all *limit.Limiter }

func newAttempts(now func() time.Time) attempts {
	return attempts{each: limit.New(6*time.Second, 10, now), all: limit.New(50*time.Millisecond, 40, now)}
}

// take takes an attempt of somebody's, or returns how long to wait. One that its maker's own limit refuses takes nothing from the others, and one that
// the limit of all refuses is not remembered: whoever makes up names cannot have those forgotten who have made their attempts (20 names a second take
// eight minutes to fill what is remembered, and a name has rested after one).
func (a attempts) take(who string) (wait time.Duration) {
	if wait := a.each.Wait(who); wait > 0 {
		return wait
	}
	if wait := a.all.Take(""); wait > 0 {
		return wait
	}
	return a.each.Take(who)
}

// New returns a Handler.
func New(p Parts) (*Handler, error) {
	h := &Handler{
		Parts: p, mux: http.NewServeMux(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "login_edge_requests_total", Help: "Requests of devices, by endpoint and HTTP status.",
		}, []string{"endpoint", "status"}),
		limits: limits{enrol: newAttempts(p.Now), login: newAttempts(p.Now), tokens: limit.New(time.Second, 20, p.Now)},
	}
	if err := p.Metrics.Register(h.requests); err != nil {
		return nil, err
	}
	var err error
	if h.metadata, err = metadata(p.Issuer); err != nil {
		return nil, err
	}
	h.get("/.well-known/oauth-authorization-server", func() []byte { return h.metadata })
	h.get(pathKeys, p.Keys)
	h.post(pathEnrol, "application/json", h.enrol)
	h.post(pathChallenge, formType, h.challenge)
	h.post(pathToken, formType, h.token)
	h.post(pathRevoke, formType, h.revoke)
	return h, nil
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store") // RFC 6749 §5.1; what is public is small, and has to be fresh
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Strict-Transport-Security", "max-age=31536000")
	h.mux.ServeHTTP(w, r)
}

// get serves a document.
func (h *Handler) get(path string, document func() []byte) {
	h.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
		h.requests.WithLabelValues(path, "200").Inc()
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(document()) // who has gone is not told
	})
}

// endpoint answers a request with what is to be written as JSON, or an error.
type endpoint func(ctx context.Context, r *http.Request) (answer any, err error)

// post serves an endpoint. The log has who, where and how it went, and nothing of what was sent.
func (h *Handler) post(path, contentType string, f endpoint) {
	h.mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), handleTimeout)
		defer cancel()
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		answer, err := any(nil), checkRequest(r, contentType)
		if err == nil {
			answer, err = f(ctx, r)
		}
		status := h.answer(ctx, w, answer, err)
		h.requests.WithLabelValues(path, statusText(status)).Inc()
		h.Log.InfoContext(ctx, "a device has asked", "endpoint", path, "status", status, "client", clientName(r))
	})
}

// clientName is whom the request's certificate names; it was verified.
func clientName(r *http.Request) string {
	if cert := certificate(r); cert != nil {
		return cert.Subject.CommonName
	}
	return ""
}

// certificate is that which the client has proven to have the key of.
func certificate(r *http.Request) *x509.Certificate {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return r.TLS.PeerCertificates[0]
}

// client authenticates the client of a request (RFC 8705 §2.1).
func (h *Handler) client(ctx context.Context, r *http.Request, clientID string) (device.Device, error) {
	d, err := h.Devices.Authenticate(ctx, clientID, certificate(r))
	if errors.Is(err, device.ErrNotGood) {
		return device.Device{}, problem{status: http.StatusUnauthorized, Code: "invalid_client", Description: "the certificate is not the client's, or is not good"}
	}
	return d, err
}
