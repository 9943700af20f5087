package front_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/pkg/userauth/userauthtest"
)

// lines is a log. It is safe for concurrent use.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// of returns the lines with a message.
func (l *lines) of(t *testing.T, message string) []map[string]any {
	t.Helper()
	var found []map[string]any
	for line := range strings.Lines(l.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if fields["msg"] == message {
			found = append(found, fields)
		}
	}
	return found
}

const refusedLine = "a request is refused"

// counted returns how many requests were counted, by method and status.
func (w *world) counted(t *testing.T) map[string]int {
	t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := map[string]int{}
	for _, family := range families {
		for _, series := range family.GetMetric() {
			labels := family.GetName()
			for _, label := range series.GetLabel() {
				labels += " " + label.GetValue()
			}
			if n := int(series.GetCounter().GetValue()); n != 0 {
				counted[labels] = n
			}
		}
	}
	return counted
}

// Every request over REST is counted once, whatever becomes of it. One that is refused before it is a call is logged with where it came from, as the calls are that others become;
// and nothing that a client makes up becomes a series or gets into the log.
func TestEveryRequestIsSeen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client := &rawClient{world: w}
	token := w.token(t, nil)
	good := "Authorization: Bearer " + token + "\r\n"
	poor := "Authorization: Bearer " + w.token(t, userauthtest.Claims{"scope": "transfer"}) + "\r\n"
	bad := "Authorization: Bearer evil.evil.evil\r\n"
	want, refused := map[string]int{}, map[string]int{}
	for _, c := range []struct {
		verb, target, authorization string
		method                      string
		status                      int
		call                        bool // it becomes one
	}{
		{"GET", "/v1/accounts", good, "GET", 200, true},
		{"GET", "/openapi.json", "", "GET", 200, false},
		{"GET", "/v1/accounts", "", "GET", 401, false},
		{"GET", "/v1/accounts", bad, "GET", 401, false},
		{"GET", "/v1/accounts?access_token=" + token, good, "GET", 401, false},
		{"GET", "/v1/evil", good, "GET", 404, false},
		{"GET", "//v1/accounts", good, "GET", 404, false},
		{"GET", "/v1/accounts?pageSize=evil", good, "GET", 400, false},
		{"POST", "/v1/transfers?evil=evil", good, "POST", 400, true},
		{"GET", "/v1/accounts/" + noAccount + "/statement", good, "GET", 404, true},
		{"GET", "/v1/accounts", poor, "GET", 403, true},
		{"POST", "/v1/transfers", bad, "POST", 401, false},
		{"POST", "/v1/accounts/" + aliceAccount + "/activity", good, "POST", 405, false},
		{"DELETE", "/v1/accounts", good, "other", 405, false},
		{"EVIL", "/v1/accounts", good, "other", 405, false},
		{"EVILER", "/v1/accounts", bad, "other", 401, false},
	} {
		response, told := client.ask(t, c.verb, c.target, c.authorization)
		if response.StatusCode != c.status {
			t.Errorf("%s %s: %d %+v", c.verb, c.target, response.StatusCode, told)
		}
		want[fmt.Sprintf("gateway_rest_requests_total %s %d", c.method, c.status)]++
		if c.status >= 400 && !c.call {
			refused[fmt.Sprintf("%s %d", c.method, c.status)]++
		}
	}
	p := w.phone(t, w.alice)
	typed := bearer(token)
	typed.Set("Content-Type", "text/evil")
	p.fetch(t, http.MethodPost, "/v1/transfers", typed, transferBody)
	p.fetch(t, http.MethodPost, "/v1/transfers", bearer(token), strings.Repeat(" ", 70_000))
	for _, status := range []int{415, 413} {
		want[fmt.Sprintf("gateway_rest_requests_total POST %d", status)]++
		refused[fmt.Sprintf("POST %d", status)]++
	}
	var diff string
	for deadline := time.Now().Add(10 * time.Second); ; { // an answer is there before it is counted
		if diff = cmp.Diff(want, w.counted(t)); diff == "" || time.Now().After(deadline) {
			break
		}
		<-time.After(5 * time.Millisecond)
	}
	if diff != "" {
		t.Errorf("counted: -want +got:\n%s", diff)
	}
	logged := map[string]int{}
	eventually(t, "the last line is written", func() bool { return len(w.log.of(t, refusedLine)) >= 13 })
	for _, line := range w.log.of(t, refusedLine) {
		logged[fmt.Sprintf("%v %v", line["http.method"], line["http.status"])]++
		if from, _ := line["peer.address"].(string); !strings.HasPrefix(from, "127.0.0.1:") {
			t.Errorf("a line without where the request came from: %v", line)
		}
	}
	if diff := cmp.Diff(refused, logged); diff != "" {
		t.Errorf("logged: -want +got:\n%s", diff)
	}
	calls := 0
	for _, line := range w.log.of(t, "finished call") {
		if service, _ := line["grpc.service"].(string); service != "bank.mobile.v1.MobileBankService" {
			continue
		}
		calls++
		if from, _ := line["peer.address"].(string); !strings.HasPrefix(from, "127.0.0.1:") {
			t.Errorf("a call without where it came from: %v", line)
		}
	}
	if calls != 4 {
		t.Errorf("%d calls are logged", calls)
	}
	for _, secret := range []string{token, token[strings.LastIndex(token, ".")+1:], "evil"} {
		if strings.Contains(strings.ToLower(w.log.String()), strings.ToLower(secret)) {
			t.Errorf("the log has %s", secret)
		}
	}
}

// Who is refused often does not fill the log.
func TestRefusalsDoNotFloodTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client := &rawClient{world: w}
	const asked = 200
	began := time.Now()
	for range asked {
		client.ask(t, http.MethodGet, "/v1/accounts", "")
	}
	eventually(t, "all are counted", func() bool { return w.counted(t)["gateway_rest_requests_total GET 401"] == asked })
	n, most := len(w.log.of(t, refusedLine)), 21+int(10*time.Since(began).Seconds())
	if n == 0 || n > most {
		t.Errorf("%d lines of %d requests, want %d at most", n, asked, most)
	}
}
