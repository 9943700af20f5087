package userauth_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/auth"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ordinary is what one builds from the same parts as their documentation shows them: over gRPC, the auth interceptor of go-grpc-middleware with
// go-jose's jwt package; over HTTP, go-oidc's verifier with its defaults, but for the algorithm, which a discovery document would give it. Both know the
// issuer's key, its name and the audience, and stand at the same TLS.
type ordinary struct{ grpc, http string }

func (w *world) serveOrdinary() ordinary {
	w.t.Helper()
	check := auth.AuthFunc(func(ctx context.Context) (context.Context, error) {
		token, err := auth.AuthFromMD(ctx, "bearer")
		if err != nil {
			return nil, err
		}
		if err := w.goJose(token); err != nil {
			return nil, status.Error(codes.Unauthenticated, "invalid token")
		}
		return ctx, nil
	})
	handler := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if err := w.goOIDC(r.Context(), token); err != nil {
			http.Error(rw, "unauthorized", http.StatusUnauthorized)
			return
		}
		fmt.Fprint(rw, "in")
	})
	return ordinary{
		grpc: w.serveGRPC(auth.UnaryServerInterceptor(check), auth.StreamServerInterceptor(check)),
		http: w.serveHTTP(handler),
	}
}

// goJose verifies a token as the example of jwt.ParseSigned does.
func (w *world) goJose(token string) error {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return err
	}
	key, err := w.issuer.Key(context.Background(), "key-1")
	if err != nil {
		return err
	}
	var claims jwt.Claims
	if err := parsed.Claims(key.Key, &claims); err != nil {
		return err
	}
	return claims.Validate(jwt.Expected{Issuer: issuer, AnyAudience: jwt.Audience{audience}})
}

func (w *world) goOIDC(ctx context.Context, token string) error {
	key, err := w.issuer.Key(ctx, "key-1")
	if err != nil {
		return err
	}
	keys := &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{key.Key}}
	_, err = oidc.NewVerifier(issuer, keys, &oidc.Config{ClientID: audience, SupportedSigningAlgs: []string{oidc.ES256}}).Verify(ctx, token)
	return err
}

// letIn says which of the ordinary configurations let a call in.
func (w *world) letIn(o ordinary, cert tls.Certificate, values ...string) (in []string) {
	w.t.Helper()
	if _, err := w.callGRPC(o.grpc, cert, values...); err == nil {
		in = append(in, "auth with go-jose")
	}
	if a := w.callHTTP(o.http, "/", "", cert, values...); a.status == http.StatusOK {
		in = append(in, "go-oidc")
	}
	return in
}
