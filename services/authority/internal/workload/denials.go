package workload

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/countersign-mesh/countersign/services/authority/internal/attest"
)

const (
	// sameInterval is how often the same is logged: a workload without an identity asks again and again.
	sameInterval = 30 * time.Second
	// maxKnown bounds what is remembered, denialBurst and one a second what is logged, whatever callers do.
	maxKnown    = 256
	denialBurst = 20
)

// denials logs who got no identity and what would have to be done about it.
type denials struct {
	log     *slog.Logger
	limiter *rate.Limiter

	mu         sync.Mutex
	logged     map[string]time.Time
	suppressed int
}

func newDenials(log *slog.Logger) *denials {
	return &denials{log: log, limiter: rate.NewLimiter(rate.Every(time.Second), denialBurst), logged: make(map[string]time.Time)}
}

// unmatched logs a process that no entry is for, and the entry that is missing. measure gives the process with the sum of its
// executable; it is asked for only when the line is written, since to read an executable is dear.
func (d *denials) unmatched(ctx context.Context, process attest.Process, measure func(context.Context) (attest.Process, error)) {
	// An executable that is known by now is no other process.
	key := attest.Process{UID: process.UID, Socket: process.Socket, Path: process.Path}
	suppressed, ok := d.admit(strings.Join(key.Selectors(), "\n"))
	if !ok {
		return
	}
	measured, err := measure(ctx)
	if err == nil {
		process = measured
	}
	attrs := append(whence(process), "selectors", strings.Join(process.Selectors(), " "), "missing_entry", missingEntry(process))
	if err != nil {
		attrs = append(attrs, "no_sha256_because", err)
	}
	if process.PathProblem != "" {
		attrs = append(attrs, "no_path_because", process.PathProblem)
	}
	d.log.WarnContext(ctx, "a process matches no registration entry and gets no identity; to give it one, name it and add the entry to the registration file",
		append(attrs, "not_logged_since", suppressed)...)
}

// unattested logs a process that is not known well enough to have an identity.
func (d *denials) unattested(ctx context.Context, err error) {
	if suppressed, ok := d.admit(err.Error()); ok {
		d.log.WarnContext(ctx, "a process could not be attested and gets no identity", "error", err, "not_logged_since", suppressed)
	}
}

// admit reports whether to log what key stands for, and how many were left out since the last that was.
func (d *denials) admit(key string) (suppressed int, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if last, known := d.logged[key]; known && now.Sub(last) < sameInterval || !d.limiter.AllowN(now, 1) {
		d.suppressed++
		return 0, false
	}
	if len(d.logged) >= maxKnown {
		clear(d.logged)
	}
	d.logged[key] = now
	suppressed, d.suppressed = d.suppressed, 0
	return suppressed, true
}

// missingEntry is an entry as it would stand in the registration file, on one line. In YAML's single quotes a single quote is
// written twice, and nothing else needs care.
func missingEntry(process attest.Process) string {
	if process.Socket != "" { // which is a SPIFFE ID's segment and needs no quotes
		return fmt.Sprintf("- {spiffe_id: /%s, selectors: ['socket:%s']}", process.Socket, process.Socket)
	}
	var selectors []string
	for _, selector := range process.Selectors() {
		selectors = append(selectors, "'"+strings.ReplaceAll(selector, "'", "''")+"'")
	}
	return fmt.Sprintf("- {spiffe_id: /%s, selectors: [%s]}", suggestName(process.Path), strings.Join(selectors, ", "))
}

// whence says in the log where a process is found: by its PID, or by the socket that it came over, where a PID tells nothing.
func whence(process attest.Process) []any {
	if process.Socket != "" {
		return []any{"socket", process.Socket, "uid", process.UID}
	}
	return []any{"pid", process.PID}
}

// suggestName makes a path segment of a SPIFFE ID (SPIFFE-ID §2.2) of the executable's name.
func suggestName(path string) string {
	name := regexp.MustCompile(`[^a-zA-Z0-9._-]+`).ReplaceAllString(filepath.Base(path), "-")
	if strings.Trim(name, ".-") == "" {
		return "NAME"
	}
	return name
}
