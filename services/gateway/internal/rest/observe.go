package rest

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// observer counts every request, and logs those that are refused before they become a call: calls are counted and logged where those over gRPC are.
type observer struct {
	requests *prometheus.CounterVec
	log      *slog.Logger
	// lines bounds what callers can make of the log.
	lines *rate.Limiter
}

func newObserver(metrics prometheus.Registerer, log *slog.Logger) (*observer, error) {
	o := &observer{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gateway_rest_requests_total", Help: "Requests of devices over REST, by HTTP method and status.",
		}, []string{"method", "status"}),
		log: log, lines: rate.NewLimiter(10, 20),
	}
	// What a request may be refused with is there from the start, so that a rate is known from the first time that it happens.
	for _, method := range []string{http.MethodGet, http.MethodPost, otherMethod} {
		for _, status := range []int{400, 401, 403, 404, 405, 413, 415, 429, 500, 503} {
			o.requests.WithLabelValues(method, strconv.Itoa(status))
		}
	}
	return o, metrics.Register(o.requests)
}

// otherMethod stands for the methods that no route has. A client can make up any number of them.
const otherMethod = "other"

func methodOf(r *http.Request) string {
	if r.Method == http.MethodGet || r.Method == http.MethodPost {
		return r.Method
	}
	return otherMethod
}

// handler observes what next is asked, and how it answers.
func (o *observer) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen, answer := &origin{addr: address(r.RemoteAddr)}, &observedWriter{ResponseWriter: w}
		status := http.StatusInternalServerError // of what panics
		defer func() { o.answered(r, seen, status) }()
		next.ServeHTTP(answer, r.WithContext(context.WithValue(r.Context(), originKey{}, seen)))
		status = cmp.Or(answer.status, http.StatusOK) // net/http's, where nothing was written
	})
}

// answered counts a request, and logs it if it was refused. Neither its path nor anything that it shows is written: both are the client's, and one may be a token.
func (o *observer) answered(r *http.Request, from *origin, status int) {
	method := methodOf(r)
	o.requests.WithLabelValues(method, strconv.Itoa(status)).Inc()
	if status < http.StatusBadRequest || from.called.Load() || !o.lines.Allow() {
		return
	}
	level := slog.LevelInfo
	if status == http.StatusInternalServerError {
		level = slog.LevelError
	}
	o.log.LogAttrs(r.Context(), level, "a request is refused", slog.String("http.method", method), slog.Int("http.status", status),
		slog.String("peer.address", from.addr.String()))
}

// origin is where a request has come from, and whether it has become a call.
type origin struct {
	addr   address
	called atomic.Bool
}

type originKey struct{}

// originOf returns the origin of the request whose context it is, or nil.
func originOf(ctx context.Context) *origin {
	o, _ := ctx.Value(originKey{}).(*origin)
	return o
}

// address is the address of a client as net/http has it. It is a net.Addr.
type address string

// Network implements net.Addr.
func (address) Network() string { return "tcp" }

// String implements net.Addr.
func (a address) String() string { return string(a) }

// observedWriter knows the status of an answer.
type observedWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *observedWriter) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK { // an answer may be announced before (RFC 9110 §15.2)
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *observedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
