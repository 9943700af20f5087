package ops_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-mesh/countersign/pkg/ops"
)

func get(t *testing.T, h http.Handler, path string) (code int, body string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestLivezAnswersWhateverTheChecksSay(t *testing.T) {
	t.Parallel()
	h := ops.New(prometheus.NewRegistry())
	h.Add("never", func(context.Context) error { return errors.New("never") })
	if code, _ := get(t, h, "/livez"); code != http.StatusOK {
		t.Errorf("/livez answered %d", code)
	}
}

func TestReadyzSaysHowEachCheckWent(t *testing.T) {
	t.Parallel()
	h := ops.New(prometheus.NewRegistry())
	h.Add("store", func(context.Context) error { return nil })
	if code, body := get(t, h, "/readyz"); code != http.StatusOK || body != "{\"store\":\"ok\"}\n" {
		t.Errorf("ready: %d %s", code, body)
	}
	h.Add("identity", func(context.Context) error { return errors.New("the SVID has expired") })
	if code, body := get(t, h, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "the SVID has expired") {
		t.Errorf("not ready: %d %s", code, body)
	}
	h.Add("identity", func(context.Context) error { return nil })
	if code, _ := get(t, h, "/readyz"); code != http.StatusOK {
		t.Errorf("ready again: %d", code)
	}
}

func TestReadyzShowsNotesAndIsReadyAllTheSame(t *testing.T) {
	t.Parallel()
	h := ops.New(prometheus.NewRegistry())
	h.Add("store", func(context.Context) error { return nil })
	h.Note("policy", func() string { return "ok (version 1)" })
	if code, body := get(t, h, "/readyz"); code != http.StatusOK || body != `{"policy":"ok (version 1)","store":"ok"}`+"\n" {
		t.Errorf("with a note: %d %s", code, body)
	}
	h.Note("policy", func() string { return "ok (version 2)" })
	if code, body := get(t, h, "/readyz"); code != http.StatusOK || body != `{"policy":"ok (version 2)","store":"ok"}`+"\n" {
		t.Errorf("with another: %d %s", code, body)
	}
	h.Add("policy", func(context.Context) error { return errors.New("gone") })
	if code, body := get(t, h, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, `"policy":"gone"`) {
		t.Errorf("a note hides a check that fails: %d %s", code, body)
	}
}

func TestReadyzBoundsItsChecks(t *testing.T) {
	t.Parallel()
	h := ops.New(prometheus.NewRegistry())
	h.Add("slow", func(ctx context.Context) error {
		if _, ok := ctx.Deadline(); !ok {
			return errors.New("a check has no deadline")
		}
		return nil
	})
	if code, body := get(t, h, "/readyz"); code != http.StatusOK {
		t.Errorf("%d %s", code, body)
	}
}

func TestMetricsAreServed(t *testing.T) {
	t.Parallel()
	metrics := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "calls_total", Help: "Calls."})
	metrics.MustRegister(counter)
	counter.Inc()
	if code, body := get(t, ops.New(metrics), "/metrics"); code != http.StatusOK || !strings.Contains(body, "calls_total 1") {
		t.Errorf("%d %s", code, body)
	}
}

func TestNothingTakesOrders(t *testing.T) {
	t.Parallel()
	h := ops.New(prometheus.NewRegistry())
	for _, path := range []string{"/livez", "/readyz", "/metrics"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, nil))
		if w.Code != http.StatusMethodNotAllowed {
			t.Errorf("POST %s answered %d", path, w.Code)
		}
	}
}
