package front_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// spelling is a way to write a path that no client of the bank has.
type spelling struct {
	name string
	of   func(path string) string
}

// spellings are paths that somebody on the way to a handler may take for another one: they differ by what a decoder or a cleaner of paths takes away. As package
// mesh has them for gRPC, but for what a line of HTTP/1.1 cannot have.
func spellings() []spelling {
	lastSlash := func(other string) func(string) string {
		return func(path string) string {
			at := strings.LastIndex(path, "/")
			return path[:at] + other + path[at+1:]
		}
	}
	before := func(other string) func(string) string { return func(path string) string { return other + path } }
	after := func(other string) func(string) string { return func(path string) string { return path + other } }
	return []spelling{
		{"a percent-encoded slash in the middle", lastSlash("%2F")},
		{"the same in lower case", lastSlash("%2f")},
		{"a percent-encoded slash in front", func(path string) string { return "/%2F" + path[1:] }},
		{"a percent-encoded percent sign", lastSlash("%252F")},
		{"a percent-encoded letter", func(path string) string { return fmt.Sprintf("/%%%02x%s", path[1], path[2:]) }},
		{"a percent-encoded letter at the end", func(path string) string {
			return fmt.Sprintf("%s%%%02X", path[:len(path)-1], path[len(path)-1])
		}},
		{"a doubled slash in front", before("/")},
		{"a doubled slash in the middle", lastSlash("//")},
		{"a slash at the end", after("/")},
		{"a dot segment", before("/.")},
		{"a percent-encoded dot segment", before("/%2e")},
		{"a way up above the root", before("/..")},
		{"a way up and down again", before("/v1/..")},
		{"a percent-encoded way up and down again", before("/v1/%2e%2e")},
		{"one that is encoded by half", before("/v1/.%2E")},
		{"a way up at the end", after("/x/..")},
		{"a parameter", after(";a=b")},
		{"an empty parameter", after(";")},
		{"a parameter in the middle", lastSlash(";a=b/")},
		{"a percent-encoded NUL at the end", after("%00")},
		{"a percent-encoded NUL in the middle", lastSlash("%00/")},
		{"a percent-encoded space", after("%20")},
		{"a backslash", lastSlash(`\`)},
		{"a percent-encoded backslash", lastSlash("%5C")},
		{"a percent-encoded question mark", after("%3Fa=b")},
		{"a fragment", after("#a")},
		{"a byte that is no UTF-8", after("%ff")},
		{"a letter that looks alike", func(path string) string { return strings.Replace(path, "a", "\u0430", 1) }}, // Cyrillic
		{"a letter of two bytes", after("%C3%A9")},
		{"an absolute URI with a doubled slash", before("https://localhost/")},
		{"no slash in front", func(path string) string { return path[1:] }},
		{"an asterisk", func(string) string { return "*" }},
	}
}

// rawClient sends requests as they stand, over one connection for as long as that is kept.
type rawClient struct {
	world  *world
	conn   net.Conn
	reader *bufio.Reader
}

// ask sends a request with a target, and returns how it is answered.
func (c *rawClient) ask(t *testing.T, verb, target, authorization string) (reply, problem) {
	t.Helper()
	if c.conn == nil {
		c.conn = c.world.dial(t, "http/1.1")
		c.reader = bufio.NewReader(c.conn)
	}
	_ = c.conn.SetDeadline(time.Now().Add(30 * time.Second))
	body := ""
	if verb == http.MethodPost {
		body = "{}"
	}
	if _, err := fmt.Fprintf(c.conn, "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s", verb, target, len(body), authorization, body); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		t.Fatalf("%s %s: %v", verb, target, err)
	}
	defer func() { _ = response.Body.Close() }()
	var content []byte
	if response.StatusCode != http.StatusOK { // of a watch there is no end
		if content, err = io.ReadAll(response.Body); err != nil {
			t.Fatalf("%s %s: %v", verb, target, err)
		}
	}
	if response.Close || content == nil {
		_ = c.conn.Close()
		c.conn = nil
	}
	var told problem
	_ = json.Unmarshal(content, &told) // it stays empty otherwise
	return reply{response.StatusCode, response.Header}, told
}

// ATTACKS 41 over REST: a path that is not written as the document has it is of no method. It reaches no handler, it is redirected nowhere, and its answer is a
// problem like any other: for whoever is not let in the same as for a path that there is.
func TestAPathThatIsNotPlainReachesNoHandler(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client := &rawClient{world: w}
	authorization := "Authorization: Bearer " + w.token(t, nil) + "\r\n"
	targets := map[string]string{}
	for _, r := range routes() {
		path, _, _ := strings.Cut(r.path, "?")
		targets[r.verb+" "+path] = r.verb
	}
	targets["GET /v1/nothing/there"], targets["GET /openapi.json"] = http.MethodGet, http.MethodGet
	for target, verb := range targets {
		_, path, _ := strings.Cut(target, " ")
		for _, s := range spellings() {
			spelt := s.of(path)
			if _, err := url.ParseRequestURI(spelt); err != nil {
				continue // net/http answers it by itself; see below
			}
			for name, c := range map[string]struct {
				authorization string
				status        int
				code          string
			}{"a customer": {authorization, 404, "NOT_FOUND"}, "nobody": {"", 401, "INVALID_TOKEN"}} {
				response, told := client.ask(t, verb, spelt, c.authorization)
				if response.StatusCode != c.status || told.Code != c.code || told.Status != c.status ||
					response.Header.Get("Content-Type") != "application/problem+json" || response.Header.Get("Location") != "" {
					t.Errorf("%s: %s, of %s: %d %s %+v", target, s.name, name, response.StatusCode, response.Header, told)
				}
			}
		}
	}
	// These are no requests at all, and net/http says so.
	for name, target := range map[string]string{
		"half of an encoding": "/v1/accounts%2", "no encoding": "/v1/accounts%zz", "a NUL": "/v1/accounts\x00", "a space": "/v1/ accounts", "no slash": "v1/accounts",
	} {
		if response, _ := client.ask(t, http.MethodGet, target, authorization); response.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d", name, response.StatusCode)
		}
	}
	if len(w.login.issued) != 0 || len(w.behind.asked) != 0 {
		t.Errorf("a handler was reached: %v, %v", w.login.issued, w.behind.asked)
	}
	// Without this, a door that lets nothing in would pass.
	if response, _ := client.ask(t, http.MethodGet, "/v1/accounts/"+aliceAccount+"/statement", authorization); response.StatusCode != http.StatusOK || len(w.behind.asked) == 0 {
		t.Errorf("the plain path: %d, asked %v", response.StatusCode, w.behind.asked)
	}
}
