// Package ops is the plaintext HTTP side of a process, for the platform that runs it: /livez, /readyz and /metrics. It
// belongs on loopback or a network of its own; it tells nothing that is secret and takes no orders.
package ops

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// checkTimeout bounds all readiness checks of one request together.
const checkTimeout = 2 * time.Second

// Check says nil when a part of the process is ready, or why it is not.
type Check func(ctx context.Context) error

// Handler serves the three endpoints. It is safe for concurrent use. The zero value is not usable; see New.
type Handler struct {
	mux *http.ServeMux

	mu     sync.Mutex
	checks map[string]Check
	notes  map[string]func() string
}

// New returns a Handler that is ready as long as every check added to it passes.
func New(metrics prometheus.Gatherer) *Handler {
	h := &Handler{mux: http.NewServeMux(), checks: make(map[string]Check), notes: make(map[string]func() string)}
	h.mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	h.mux.HandleFunc("GET /readyz", h.readyz)
	h.mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	return h
}

// Add adds a readiness check, or replaces the one of that name.
func (h *Handler) Add(name string, check Check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks[name] = check
}

// Note adds to what /readyz answers how a part of the process is that its readiness does not hang on, or replaces the note of that name: "ok", with
// details in brackets behind it. Whoever reaches the port reads it.
func (h *Handler) Note(name string, note func() string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notes[name] = note
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// readyz answers 200 when every check passes and 503 otherwise; the body says how each went, and what the notes say.
func (h *Handler) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	code, results := http.StatusOK, make(map[string]string)
	checks, notes := h.snapshot()
	for name, note := range notes {
		results[name] = note()
	}
	for name, check := range checks {
		results[name] = "ok"
		if err := check(ctx); err != nil {
			code, results[name] = http.StatusServiceUnavailable, err.Error()
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(results) // the client is gone; nothing to tell it
}

func (h *Handler) snapshot() (map[string]Check, map[string]func() string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.checks), maps.Clone(h.notes)
}
