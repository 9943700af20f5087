package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
)

// testRawPaths asks every server for methods by paths that are not written as gRPC writes them, frame by frame: as somebody who may call the method,
// as somebody who may not, and for a method that there is not. All are denied alike, or their stream is reset. The well-formed call of who may is
// let in before and after, on the same connection, so that the test can fail. ATTACKS 41, 43.
func testRawPaths(t *testing.T, mesh *bank.Mesh) {
	const check, nothing = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Nothing"
	operator, stranger := mesh.Identity(t, "operator"), mesh.Identity(t, "stranger")
	for _, server := range bank.Services() {
		good, other := mesh.Frames(t, operator, server), mesh.Frames(t, stranger, server)
		letInRaw(t, server, good)
		for _, test := range misspelled(check) {
			for caller, frames := range map[string]*bank.Frames{"operator": good, "stranger": other} {
				for _, method := range []string{check, nothing} {
					if wrong := notServed(frames.Ask(test.headers(method)), test.reset); wrong != "" {
						t.Errorf("%s → %s %s, %s: %s", caller, server, method, test.name, wrong)
					}
				}
			}
			letInRaw(t, server, good)
		}
	}
}

// misspelling is a way of writing a path that gRPC does not write.
type misspelling struct {
	name    string
	headers func(method string) []hpack.HeaderField
	reset   bool // is what becomes of it, before it is asked whether the caller may
}

// misspelled are the ways of writing a path of this service. Check is a method that is spelled right where the path is there twice.
func misspelled(check string) []misspelling {
	service := check[1:strings.LastIndex(check, "/")]
	last := service[strings.LastIndex(service, ".")+1:]
	spelled := func(spell func(string) string) func(string) []hpack.HeaderField {
		return func(method string) []hpack.HeaderField { return bank.Headers(spell(method)) }
	}
	return []misspelling{
		{"no slash in front", spelled(func(m string) string { return m[1:] }), false},
		{"an empty path", spelled(func(string) string { return "" }), false},
		{"a slash alone", spelled(func(string) string { return "/" }), false},
		{"a doubled slash in front", spelled(func(m string) string { return "/" + m }), false},
		{"a doubled slash in the middle", spelled(func(m string) string { return strings.Replace(m, last+"/", last+"//", 1) }), false},
		{"a slash at the end", spelled(func(m string) string { return m + "/" }), false},
		{"a percent-encoded slash", spelled(func(m string) string { return strings.Replace(m, last+"/", last+"%2F", 1) }), false},
		{"a percent-encoded letter", spelled(func(m string) string { return fmt.Sprintf("/%%%x%s", m[1], m[2:]) }), false},
		{"lower case", spelled(strings.ToLower), false},
		{"an absolute URI", spelled(func(m string) string { return "https://ledger" + m }), false},
		{"a query", spelled(func(m string) string { return m + "?a=b" }), false},
		{"a way up and down again", spelled(func(m string) string { return "/" + service + "/.." + m }), false},
		{"a byte that is no UTF-8", spelled(func(m string) string { return m + "\xff" }), false},
		{"8 KiB more", spelled(func(m string) string { return m + strings.Repeat("a", 8<<10) }), false},
		{"a NUL", spelled(func(m string) string { return m + "\x00" }), true},
		{"no path", func(m string) []hpack.HeaderField { return without(bank.Headers(m), ":path") }, false},
		{"the path twice", func(m string) []hpack.HeaderField {
			return append([]hpack.HeaderField{{Name: ":path", Value: check}}, bank.Headers(m)...)
		}, true},
		{"the path after the other headers", func(m string) []hpack.HeaderField {
			return append(without(bank.Headers(m), ":path"), hpack.HeaderField{Name: ":path", Value: m})
		}, true},
	}
}

// testRawPathsAtTheEdge does the same where customers come in, as one of them: what is not the path of a method reaches none.
func testRawPathsAtTheEdge(t *testing.T, mesh *bank.Apart, alice, _ *bank.Phone) {
	const list = "/bank.mobile.v1.MobileBankService/ListAccounts"
	token, err := alice.Session.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	authorized := func(headers []hpack.HeaderField) []hpack.HeaderField {
		return append(headers, hpack.HeaderField{Name: "authorization", Value: "Bearer " + token})
	}
	frames := bank.NewFrames(t, alice.TLS(), mesh.Edge(t).GRPC)
	for _, test := range misspelled(list) {
		if err := frames.Ask(authorized(bank.Headers(list))); err != nil {
			t.Fatalf("the well-formed call before %s: %v", test.name, err)
		}
		if err := frames.Ask(authorized(test.headers(list))); err == nil {
			t.Errorf("%s was answered", test.name)
		}
	}
}

// letInRaw checks that a well-formed call is let in on a connection.
func letInRaw(t *testing.T, server string, frames *bank.Frames) {
	t.Helper()
	if err := frames.Ask(bank.Headers("/grpc.health.v1.Health/Check")); err != nil {
		t.Errorf("%s: the well-formed call: %v", server, err)
	}
}

// notServed returns what is wrong with the answer to a request that names no method: it is to be denied, or its stream reset.
func notServed(err error, reset bool) string {
	if !reset {
		_, wrong := bank.DecisionID(err)
		return wrong
	}
	if stream, ok := errors.AsType[http2.StreamError](err); !ok || stream.Code != http2.ErrCodeProtocol {
		return fmt.Sprintf("want the stream reset with PROTOCOL_ERROR, got %v", err)
	}
	return ""
}

func without(headers []hpack.HeaderField, name string) []hpack.HeaderField {
	return slices.DeleteFunc(headers, func(f hpack.HeaderField) bool { return f.Name == name })
}
