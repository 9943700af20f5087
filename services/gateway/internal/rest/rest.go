// Package rest serves the bank as REST/JSON. It translates, and decides nothing: each request becomes a call of MobileBankService and goes the same way as one
// that came over gRPC.
//
// Of a request's headers nothing goes on but the trace: what a customer sends cannot become metadata that somebody inside believes.
package rest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/countersign-mesh/countersign/docs"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	routes "github.com/countersign-mesh/countersign/services/gateway/internal/rest/mobilev1"
)

// Config is what stands before the bank's methods.
type Config struct {
	// Admit lets requests in only with a good token (see userauth.Middleware); it stands before the routes, so that who is not let in learns nothing of them.
	Admit func(http.Handler) http.Handler
	// Begin takes a request into account for the customer whom it was let in for, or refuses it with the error of a call. What follows costs something, and not all of it
	// becomes a call.
	Begin func(ctx context.Context) error
	// MaxBody bounds the body of a request.
	MaxBody int64
	// Pace is the time that a client takes to take in a piece of the answer. How long it may take to send a request is for the server to say, by its
	// ReadTimeout, which sees also requests that do not come here.
	Pace    time.Duration
	Metrics prometheus.Registerer
	Log     *slog.Logger
}

// New returns the handler of all paths. conn leads to the bank's methods within this process.
func New(conn grpc.ClientConnInterface, c Config) (http.Handler, error) {
	translate := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{EmitUnpopulated: true},
			UnmarshalOptions: protojson.UnmarshalOptions{}, // a field that is not known is an error: a wish that is not understood must not be half done
		}),
		runtime.WithIncomingHeaderMatcher(trace),
		runtime.WithOutgoingHeaderMatcher(nothing),
		runtime.WithOutgoingTrailerMatcher(nothing),
		runtime.WithErrorHandler(callFailed),
		runtime.WithRoutingErrorHandler(notRouted),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
	)
	// Not the runtime's background: the connection is within the process, and there is nothing to close.
	client := mobilev1.NewMobileBankServiceClient(promptConn{conn})
	if err := routes.RegisterMobileBankServiceHandlerClient(context.Background(), translate, client); err != nil {
		return nil, err
	}
	observer, err := newObserver(c.Metrics, c.Log)
	if err != nil {
		return nil, fmt.Errorf("register the metrics of REST: %w", err)
	}
	return observer.handler(paced(documented(c.Admit(begun(c.Begin, plain(prepared(translate, c.MaxBody))))), c.Pace)), nil
}

// documented answers what is asked of the document, which is no secret, and has all else go on. It compares, and no http.ServeMux does: that one would answer a path
// that it finds another spelling for by itself, with a redirection, and whoever is not let in with it.
func documented(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if (r.Method == http.MethodGet || r.Method == http.MethodHead) && r.URL.EscapedPath() == "/openapi.json" {
			document(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// document tells what can be asked.
func document(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(docs.OpenAPI()) // the client is gone; nothing to tell it
}

// trace are the headers that go on (W3C Trace Context).
func trace(header string) (string, bool) {
	switch header {
	case "Traceparent":
		return "traceparent", true
	case "Tracestate":
		return "tracestate", true
	default:
		return "", false
	}
}

func nothing(string) (string, bool) { return "", false }

// begun has a request go on that begin does not refuse.
func begun(begin func(ctx context.Context) error, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := begin(r.Context()); err != nil {
			fail(w, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// plain has a request go on when its path has one spelling. There is nothing at another one, whatever it would be were it decoded or cleaned: two who read such a
// path, on the way here or behind, may read two of it.
func plain(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isPlain(r.URL) {
			nowhere(w, http.StatusNotFound)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isPlain says whether a path is of letters, digits and marks that are never encoded (RFC 3986 §2.3, and the colon of a method), in segments none of which is empty
// or a way to another one (§3.3, §5.2.4). The path of u is decoded, and RawPath is empty where net/url would encode it back to what was sent.
func isPlain(u *url.URL) bool {
	segments, ok := strings.CutPrefix(u.Path, "/")
	if !ok || u.RawPath != "" {
		return false
	}
	for segment := range strings.SplitSeq(segments, "/") {
		if segment == "" || segment == "." || segment == ".." || strings.ContainsFunc(segment, encoded) {
			return false
		}
	}
	return true
}

// encoded says whether there are two ways to write a character into a path of this API.
func encoded(c rune) bool {
	isPlain := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("-._~:", c)
	return !isPlain
}

// prepared takes the body in whole, within bounds, and takes out of the headers what is not to go on: what translates has ways of its own to have some
// become metadata, or a deadline.
func prepared(next http.Handler, maxBody int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := bodyOf(w, r, maxBody)
		if err != nil {
			write(w, problem{Status: statusOf(err), Detail: err.Error(), Code: "INVALID_ARGUMENT"})
			return
		}
		bare := http.Header{}
		for _, name := range []string{"Traceparent", "Tracestate"} {
			if values := r.Header.Values(name); len(values) == 1 {
				bare.Set(name, values[0])
			}
		}
		r = r.Clone(r.Context())
		r.Header, r.Body = bare, io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

// What is wrong with a body.
var (
	errTooLarge  = errors.New("the body is too large")
	errNotJSON   = errors.New("the body is not of the type application/json")
	errCutOff    = errors.New("the body has not arrived whole")
	errMalformed = errors.New("the body is not one JSON object")
)

func statusOf(err error) int {
	switch {
	case errors.Is(err, errTooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, errNotJSON):
		return http.StatusUnsupportedMediaType
	default:
		return http.StatusBadRequest
	}
}

// bodyOf reads the body of a POST; there is no other route that takes one. A type is asked for even where the body is empty: a page of the Web can have a
// browser send any other without asking.
func bodyOf(w http.ResponseWriter, r *http.Request, maxBody int64) ([]byte, error) {
	if r.Method != http.MethodPost {
		return nil, nil
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, errNotJSON
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, errTooLarge
	}
	if err != nil {
		return nil, errCutOff
	}
	arrived(w)
	return body, oneObject(body)
}
