package mesh_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"
)

// form is a way to write the headers of a request for a method that no client of gRPC has.
type form struct {
	name    string
	headers func(method string) []hpack.HeaderField
	// want is how a server of this mesh answers, whoever asks and whatever the method.
	want string
	// in says that gRPC's own server with a deny list lets it in; see TestOrdinaryPathsThatAreNotWellFormedPassADenyList.
	in bool
}

// forms are those that name the method in a way that is none (ATTACKS 41).
func forms() []form {
	return slices.Concat(spelledForms(), framedForms())
}

// spelledForms are paths that somebody on the way to a decision may take for another one: they differ by what a cleaner of paths, a URL parser or
// a careless comparison takes away.
func spelledForms() []form {
	return []form{
		{"no slash in front", spelled(func(m string) string { return m[1:] }), denied, false},
		{"an empty path", spelled(func(string) string { return "" }), denied, false},
		{"a slash alone", spelled(func(string) string { return "/" }), denied, false},
		{"two slashes", spelled(func(string) string { return "//" }), denied, true},
		{"an asterisk", spelled(func(string) string { return "*" }), denied, false},
		{"a doubled slash in front", spelled(func(m string) string { return "/" + m }), denied, true},
		{"a doubled slash in the middle", spelled(lastSlash("//")), denied, true},
		{"a slash at the end", spelled(func(m string) string { return m + "/" }), denied, true},
		{"no slash between service and method", spelled(lastSlash("")), denied, false},
		{"a dot between service and method", spelled(lastSlash(".")), denied, false},
		{"backslashes", spelled(func(m string) string { return strings.ReplaceAll(m, "/", `\`) }), denied, false},
		{"a percent-encoded slash in the middle", spelled(lastSlash("%2F")), denied, false},
		{"a percent-encoded slash in front", spelled(func(m string) string { return "%2F" + m[1:] }), denied, false},
		{"a percent-encoded letter", spelled(func(m string) string { return fmt.Sprintf("/%%%02x%s", m[1], m[2:]) }), denied, true},
		{"upper case", spelled(strings.ToUpper), denied, true},
		{"lower case", spelled(strings.ToLower), denied, true},
		{"an absolute URI", spelled(func(m string) string { return "https://ledger" + m }), denied, false},
		{"a host without a scheme", spelled(func(m string) string { return "//ledger" + m }), denied, true},
		{"a query", spelled(func(m string) string { return m + "?a=b" }), denied, true},
		{"an empty query", spelled(func(m string) string { return m + "?" }), denied, true},
		{"a fragment", spelled(func(m string) string { return m + "#a" }), denied, true},
		{"a parameter", spelled(func(m string) string { return m + ";a=b" }), denied, true},
		{"a dot segment", spelled(func(m string) string { return "/." + m }), denied, true},
		{"a way up and down again", spelled(func(m string) string { return "/test.v1.Echo/.." + m }), denied, true},
		{"a way up above the root", spelled(func(m string) string { return "/.." + m }), denied, true},
		{"a space in front", spelled(func(m string) string { return " " + m }), denied, false},
		{"a space at the end", spelled(func(m string) string { return m + " " }), denied, true},
		{"a letter that looks alike", spelled(func(m string) string { return strings.Replace(m, "e", "\u0435", 1) }), denied, true}, // Cyrillic
		{"a byte that is no UTF-8", spelled(func(m string) string { return m + "\xff" }), denied, true},
		{"a NUL at the end", spelled(func(m string) string { return m + "\x00" }), malformed, false},
		{"a NUL in the middle", spelled(lastSlash("\x00/")), malformed, false},
		{"a line that ends", spelled(func(m string) string { return m + "\r\n:path: " + m }), malformed, false},
		{"8 KiB more", spelled(func(m string) string { return m + strings.Repeat("a", 8<<10) }), denied, true},
		{"8 KiB of slashes in front", spelled(func(m string) string { return strings.Repeat("/", 8<<10) + m }), denied, true},
		// One string that is longer than all headers may be is not decoded, so that what follows on the connection could not be either.
		{"17 KiB more", spelled(func(m string) string { return m + strings.Repeat("a", 17<<10) }), closed, true},
	}
}

// framedForms are requests with a good path and something about their headers that is not: the path might be read before that is seen.
func framedForms() []form {
	notPost := func(method string) string {
		return fmt.Sprintf(`405 Internal "Received a HEADERS frame with :method \"%s\" which should be POST"`, method)
	}
	return []form{
		{"no path", with(":path"), denied, false},
		{"the path twice", twice(func(m string) string { return m }), malformed, false},
		{"the path, and then another one", twice(func(string) string { return unaryMethod }), malformed, false},
		{"the path in upper case after the path", also(":PATH", unaryMethod), malformed, false},
		{"the path after another header", func(m string) []hpack.HeaderField {
			return append(replaced(headersOf(m), ":path"), hpack.HeaderField{Name: ":path", Value: m})
		}, malformed, false},
		{"a status", also(":status", "200"), malformed, false},
		{"GET", with(":method", "GET"), notPost("GET"), false},
		{"CONNECT", with(":method", "CONNECT"), notPost("CONNECT"), false},
		{"post", with(":method", "post"), notPost("post"), false},
		{"no method of HTTP", with(":method"), notPost(""), false},
		{"two methods of HTTP", with(":method", "POST", "GET"), malformed, false},
	}
}

// spelled writes the path in another way.
func spelled(spell func(method string) string) func(string) []hpack.HeaderField {
	return func(method string) []hpack.HeaderField { return headersOf(spell(method)) }
}

// lastSlash puts something in the place of the slash between service and method.
func lastSlash(other string) func(string) string {
	return func(method string) string {
		at := strings.LastIndex(method, "/")
		return method[:at] + other + method[at+1:]
	}
}

// twice adds a second path.
func twice(second func(method string) string) func(string) []hpack.HeaderField {
	return func(method string) []hpack.HeaderField {
		return replaced(headersOf(method), ":path", method, second(method))
	}
}

// with puts other values in the place of a header's one: none, or several.
func with(name string, values ...string) func(string) []hpack.HeaderField {
	return func(method string) []hpack.HeaderField { return replaced(headersOf(method), name, values...) }
}

func replaced(headers []hpack.HeaderField, name string, values ...string) []hpack.HeaderField {
	at := slices.IndexFunc(headers, func(f hpack.HeaderField) bool { return f.Name == name })
	var fields []hpack.HeaderField
	for _, value := range values {
		fields = append(fields, hpack.HeaderField{Name: name, Value: value})
	}
	return slices.Replace(headers, at, at+1, fields...)
}

// also adds headers, each a name and a value.
func also(pairs ...string) func(string) []hpack.HeaderField {
	return func(method string) []hpack.HeaderField {
		var pseudo, regular []hpack.HeaderField
		for _, f := range headersOf(method) {
			if f.IsPseudo() {
				pseudo = append(pseudo, f)
			} else {
				regular = append(regular, f)
			}
		}
		for i := 0; i < len(pairs); i += 2 {
			f := hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}
			if f.IsPseudo() {
				pseudo = append(pseudo, f)
			} else {
				regular = append(regular, f)
			}
		}
		return append(pseudo, regular...)
	}
}

// The methods that are named: one that /good may call, one that nobody may, and two that there are not.
var named = []string{unaryMethod, "/grpc.health.v1.Health/Check", "/test.v1.Echo/Nothing", "/test.v1.Nothing/Unary"}

// rawWorld is a world whose /good may call the echo service, and how many messages have reached that.
func rawWorld(t *testing.T) (w *world, reached *atomic.Int32) {
	t.Helper()
	w, reached = newWorld(t, []string{"/good"}), new(atomic.Int32)
	w.echo.accepted = func(context.Context) { reached.Add(1) }
	return w, reached
}

// writer returns a client of the world's server with an SVID for a path.
func (w *world) writer(t *testing.T, path string) *writer {
	t.Helper()
	c := w.caller(t, w.ca.SVID(t, path))
	return &writer{connect: func() net.Conn { return w.connect(t, c) }}
}

// ATTACKS 41, 43: a path that is not written as gRPC writes it is of no method. It reaches no handler, whoever sends it, and its answer tells nothing:
// it is the same for a method that the sender may call, for one that it may not, and for one that there is not. The connection goes on.
func TestAPathThatIsNotWellFormedReachesNoHandler(t *testing.T) {
	t.Parallel()
	for _, peer := range []string{"/good", "/stranger"} {
		t.Run(peer, func(t *testing.T) {
			t.Parallel()
			w, reached := rawWorld(t)
			client, decisions := w.writer(t, peer), make(map[string]string)
			for _, form := range forms() {
				for _, method := range named {
					cell := fmt.Sprintf("%s, %s", method, form.name)
					got := client.ask(t, form.headers(method))
					if got.text != form.want {
						t.Errorf("%s: got %s\nwant %s", cell, got.text, form.want)
					}
					w.sameIsRecorded(t, cell, got, "spiffe://bank.test"+peer, pathIn(form.headers(method)))
					if other, ok := decisions[got.decision]; ok && got.decision != "" {
						t.Errorf("%s: the decision has the ID of %s", cell, other)
					}
					decisions[got.decision] = cell
				}
				if n := reached.Swap(0); n != 0 {
					t.Fatalf("%s reached the handler %d times", form.name, n)
				}
				checkWellFormed(t, client, peer, reached)
			}
		})
	}
}

// checkWellFormed calls the method in its well-formed form on the same connection: without that, a server that lets nothing in would pass.
func checkWellFormed(t *testing.T, client *writer, peer string, reached *atomic.Int32) {
	t.Helper()
	want, calls := answer{text: `200 OK ""`}, int32(1)
	if peer != "/good" {
		want, calls = answer{text: denied}, 0
	}
	if got := client.ask(t, headersOf(unaryMethod)); got.text != want.text {
		t.Errorf("the well-formed call: got %s, want %s", got.text, want.text)
	}
	if n := reached.Swap(0); n != calls {
		t.Errorf("the well-formed call reached the handler %d times, want %d", n, calls)
	}
}

// sameIsRecorded checks that a denied call is on record as it was sent, and that an answer without a decision is none.
func (w *world) sameIsRecorded(t *testing.T, cell string, got answer, peer, path string) {
	t.Helper()
	if got.text != denied {
		if got.decision != "" {
			t.Errorf("%s: %s with a decision", cell, got.text)
		}
		return
	}
	recorded := w.recorded.last(t)
	if recorded.ID.String() != got.decision || recorded.Allowed || recorded.PeerID != peer || recorded.Method != path {
		t.Errorf("%s: the decision %s is not the one on record: %.300v", cell, got.decision, recorded)
	}
}

func pathIn(headers []hpack.HeaderField) string {
	for _, f := range headers {
		if f.Name == ":path" {
			return f.Value
		}
	}
	return ""
}

// ATTACKS 41: a stream is of the method that it was opened for. Headers that come again on it end the connection, as stream IDs that do not grow do
// (RFC 9113 §5.1.1), and call nothing.
func TestAStreamThatIsOpenNamesNoOtherMethod(t *testing.T) {
	t.Parallel()
	w, reached := rawWorld(t)
	c := w.caller(t, w.ca.SVID(t, "/good"))
	wires := make(map[string]*wire)
	for _, second := range named {
		h := w.wire(t, c)
		h.next = h.open(t, headersOf(bothMethod))
		h.open(t, headersOf(second))
		wires[second] = h
	}
	for second, h := range wires { // gRPC gives its GOAWAY a second to arrive
		if err := h.conn.SetReadDeadline(time.Now().Add(15 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if err := h.untilClosed(t); err != nil {
			t.Errorf("%s on a stream of another method: the connection goes on: %v", second, err)
		}
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("the handler was reached %d times", n)
	}
	if err := say(t.Context(), c.conn); err != nil {
		t.Errorf("the server serves on: %v", err)
	}
}
