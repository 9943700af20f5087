package userauth

import (
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/url"
)

// Middleware lets a request in only with a good access token in its Authorization field, and puts its Principal into the context. The connection must be
// TLS with a client certificate: see package edge.
//
// It answers others with a WWW-Authenticate as RFC 6750 §3 has it and problem details (RFC 9457).
func Middleware(v *Verifier, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := v.admitRequest(r)
		if err != nil {
			v.refuse(r.Context(), methodOf(r)+" request", err)
			WriteProblem(w, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(NewContext(r.Context(), p)))
	})
}

// methodOf is the method of a request for a log. Whoever is not let in could make up one that is as long as all headers may be.
func methodOf(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return r.Method
	default:
		return "other"
	}
}

func (v *Verifier) admitRequest(r *http.Request) (*Principal, error) {
	// Two ways to show a token in one request are one too many (RFC 6750 §2), and one in the URL is in every log on the way (§5.3).
	if query, err := url.ParseQuery(r.URL.RawQuery); err != nil || query.Has("access_token") {
		return nil, invalid("there is an access token in the URL, or the URL cannot be read")
	}
	token, err := bearer(r.Header["Authorization"])
	if err != nil {
		return nil, err
	}
	return v.Verify(r.Context(), token, certificateOfRequest(r))
}

func certificateOfRequest(r *http.Request) *x509.Certificate {
	if r.TLS == nil || !r.TLS.HandshakeComplete || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return r.TLS.PeerCertificates[0]
}

// problem is the body of an answer (RFC 9457 §3). Its type is about:blank, which says no more than the status.
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	// Code is the same as the reason of the gRPC status.
	Code string `json:"code,omitempty"`
}

// WriteProblem answers a request that is refused with an *Error, or with the gRPC status that one has become. Any other error is answered with 500 and
// nothing of its text.
func WriteProblem(w http.ResponseWriter, err error) {
	body := problem{Status: http.StatusInternalServerError}
	if e, ok := FromError(err); ok {
		body.Status, body.Detail, body.Code = e.HTTPStatus(), e.Error(), e.code()
		if challenge := e.Challenge(); challenge != "" {
			w.Header().Set("WWW-Authenticate", challenge)
		} else {
			w.Header().Set("Retry-After", "1")
		}
	}
	body.Title = http.StatusText(body.Status)
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(body.Status)
	_ = json.NewEncoder(w).Encode(body) // it fails when nobody reads the answer
}
