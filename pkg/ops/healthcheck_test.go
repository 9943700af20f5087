package ops_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-mesh/countersign/pkg/ops"
	"github.com/countersign-mesh/countersign/pkg/settings"
)

// serve serves h on a port of the kernel's choice at a host, and returns the port.
func serve(t *testing.T, host string, h http.Handler) (port string) {
	t.Helper()
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Skipf("this system does not listen there: %v", err)
	}
	server := httptest.NewUnstartedServer(h)
	_ = server.Listener.Close() // its own, in whose place the other comes
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
	_, port, err = net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// ask runs the command healthcheck of the program "ledger", which listens by default where nobody does.
func ask(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	var buffer bytes.Buffer
	err = ops.Healthcheck(t.Context(), "ledger", "127.0.0.1:1", args, &buffer)
	return buffer.String(), err
}

func TestHealthcheckSaysWhichCheckIsNotOK(t *testing.T) {
	t.Parallel()
	h := ops.New(prometheus.NewRegistry())
	h.Add("database", func(context.Context) error { return nil })
	h.Note("policy", func() string { return "ok (version 1)" })
	flag := "--ops-listen=127.0.0.1:" + serve(t, "127.0.0.1", h)
	if out, err := ask(t, flag); err != nil || out != "ready\n" {
		t.Errorf("ready: %q, %v", out, err)
	}
	h.Add("identity", func(context.Context) error { return errors.New("the SVID\nhas expired") })
	h.Add("authority", func(context.Context) error { return errors.New("away") })
	out, err := ask(t, flag)
	if err == nil || out != "" || !strings.HasSuffix(err.Error(), "/readyz: authority: away; identity: the SVID has expired") {
		t.Errorf("not ready: %q, %v", out, err)
	}
}

// What listens on every address, as in a container, is asked on loopback.
func TestHealthcheckAsksOnLoopback(t *testing.T) {
	t.Parallel()
	h := ops.New(prometheus.NewRegistry())
	for _, host := range []string{"0.0.0.0", "", "::", "127.0.0.1", "::1", "localhost"} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			listen := net.JoinHostPort(host, serve(t, host, h))
			if _, err := ask(t, "--ops-listen="+listen); err != nil {
				t.Errorf("%s: %v", listen, err)
			}
		})
	}
}

func TestHealthcheckTakesTheAddressOfItsProgram(t *testing.T) {
	h := ops.New(prometheus.NewRegistry())
	t.Setenv("LEDGER_OPS_LISTEN", "0.0.0.0:"+serve(t, "0.0.0.0", h))
	t.Setenv("LEDGER_TIMEOUT", "nonsense") // is not the command's
	if _, err := ask(t); err != nil {
		t.Errorf("from the environment: %v", err)
	}
	t.Setenv("LEDGER_OPS_LISTEN", "")
	var out bytes.Buffer
	if err := ops.Healthcheck(t.Context(), "ledger", "127.0.0.1:"+serve(t, "127.0.0.1", h), nil, &out); err != nil {
		t.Errorf("by default: %v", err)
	}
}

func TestHealthcheckIsNotFooledByAnotherServer(t *testing.T) {
	t.Parallel()
	ready := serve(t, "127.0.0.1", ops.New(prometheus.NewRegistry()))
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"one that has no such page": {http.NotFound, "404 Not Found"},
		"one that sends it elsewhere": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:"+ready+"/readyz", http.StatusFound)
		}, "302 Found"},
		"one that is down in words of its own": {func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "come back later", http.StatusServiceUnavailable)
		}, "503 Service Unavailable"},
		"one that answers without end": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		}, "503 Service Unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := ask(t, "--ops-listen=127.0.0.1:"+serve(t, "127.0.0.1", test.handler))
			if err == nil || out != "" || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%q, %v, want %s", out, err, test.want)
			}
		})
	}
}

func TestHealthcheckIsBounded(t *testing.T) {
	t.Parallel()
	port := serve(t, "127.0.0.1", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	begun := time.Now()
	_, err := ask(t, "--ops-listen=127.0.0.1:"+port, "--timeout=50ms")
	if err == nil || !strings.HasSuffix(err.Error(), "no answer within 50ms") {
		t.Errorf("%v", err)
	}
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
}

// A check that is slow ends before the question does, so that its name is said.
func TestHealthcheckNamesACheckThatIsSlow(t *testing.T) {
	t.Parallel()
	h := ops.New(prometheus.NewRegistry())
	h.Add("database", func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	if _, err := ask(t, "--ops-listen=127.0.0.1:"+serve(t, "127.0.0.1", h)); err == nil || !strings.Contains(err.Error(), "database: ") {
		t.Errorf("%v", err)
	}
}

func TestHealthcheckRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		want []string
	}{
		"where nobody listens":          {nil, []string{"not ready: http://127.0.0.1:1/readyz: ", "refused"}},
		"a port of the kernel's choice": {[]string{"--ops-listen=127.0.0.1:0"}, []string{"--ops-listen", "right would be a port"}},
		"several mistakes":              {[]string{"--ops-listen=here", "--timeout=0s"}, []string{"--ops-listen", "HOST:PORT", "--timeout"}},
		"a flag that the program has":   {[]string{"--policy=x"}, []string{"--policy", "ledger healthcheck --help"}},
		"a word that is not expected":   {[]string{"now"}, []string{"now"}},
	} {
		out, err := ask(t, test.args...)
		if err == nil || out != "" {
			t.Errorf("%s: %q, %v", name, out, err)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %q", name, err, want)
			}
		}
		if name == "where nobody listens" && strings.Contains(err.Error(), "\n") {
			t.Errorf("it is more than one line: %v", err)
		}
	}
}

func TestHealthcheckExplainsItself(t *testing.T) {
	t.Parallel()
	out, err := ask(t, "--help")
	if !errors.Is(err, settings.ErrHelp) {
		t.Fatal(err)
	}
	for _, want := range []string{"ledger healthcheck", "whether it is ready", "exit code is 0", "LEDGER_OPS_LISTEN", "127.0.0.1:1", "--timeout"} {
		if !strings.Contains(out, want) {
			t.Errorf("the help does not say %q:\n%s", want, out)
		}
	}
}
