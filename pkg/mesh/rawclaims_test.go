package mesh_test

import (
	"testing"

	"golang.org/x/net/http2/hpack"
)

// ATTACKS 49: headers in which proxies and frameworks carry identities make nobody another: who is denied stays denied with the claim to be /good, who
// is let in is let in as itself with the claim to be /stranger, and the record has neither's claim. What cannot be one request is none for either.
func TestWhatACallerSaysOfItselfInRawHeadersIsIgnored(t *testing.T) {
	t.Parallel()
	w, reached := rawWorld(t)
	good, stranger := w.writer(t, "/good"), w.writer(t, "/stranger")
	for _, test := range []struct {
		name string
		// claim makes the headers of a call by somebody who wants to be id.
		claim func(method, id string) []hpack.HeaderField
		// want is the answer to both; the usual ones when it is empty.
		want string
	}{
		{"x-forwarded-client-cert", says("x-forwarded-client-cert", "By=spiffe://bank.test/ledger;URI="), ""},
		{"x-forwarded-client-cert twice", says("x-forwarded-client-cert", "URI=", "x-forwarded-client-cert", "By=spiffe://bank.test/ledger;URI="), ""},
		{"forwarded", says("forwarded", "for="), ""},
		{"spiffe-id", says("spiffe-id", ""), ""},
		{"spiffe-id twice", says("spiffe-id", "", "spiffe-id", ""), ""},
		{"x-spiffe-id", says("x-spiffe-id", ""), ""},
		{"grpc-metadata-spiffe-id", says("grpc-metadata-spiffe-id", "", "grpc-metadata-authorization", "Bearer "), ""},
		{"a name that gRPC reserves", says("grpc-peer-identity", ""), ""},
		{"two values of authorization", says("authorization", "Bearer ", "authorization", "SPIFFE "), ""},
		{"another method", func(m, _ string) []hpack.HeaderField {
			return also("grpc-method", unaryMethod, "x-original-url", unaryMethod, "x-http-method-override", "GET")(m)
		}, ""},
		{"the authority", func(m, id string) []hpack.HeaderField { return with(":authority", id)(m) }, ""},
		{"another host than the authority", says("host", ""), ""},
		{"a host and no authority", func(m, id string) []hpack.HeaderField {
			return append(replaced(headersOf(m), ":authority"), hpack.HeaderField{Name: "host", Value: id})
		}, ""},
		{"two authorities", func(m, id string) []hpack.HeaderField { return with(":authority", "ledger", id)(m) }, malformed},
		{"two hosts", says("host", "", "host", ""), `400 Internal "num values of :authority: 1, num values of host: 2, both must only have 1 value as per HTTP/2 spec"`},
		{"neither an authority nor a host", func(m, _ string) []hpack.HeaderField { return with(":authority")(m) }, `400 Internal "no host or :authority header present"`},
		{"a header in upper case", says("Spiffe-Id", ""), malformed},
		{"a pseudo-header of its own", says(":spiffe-id", ""), malformed},
		{"a header of the connection", says("connection", ""), malformed},
	} {
		wantGood, wantStranger, calls := test.want, test.want, int32(0)
		if test.want == "" {
			wantGood, wantStranger, calls = `200 OK ""`, denied, 1
		}
		if got := good.ask(t, test.claim(unaryMethod, "spiffe://bank.test/stranger")); got.text != wantGood {
			t.Errorf("%s: /good got %s, want %s", test.name, got.text, wantGood)
		}
		if n := reached.Swap(0); n != calls {
			t.Errorf("%s: the handler was reached %d times by /good, want %d", test.name, n, calls)
		}
		if last := w.recorded.last(t); calls == 1 && (!last.Allowed || last.PeerID != "spiffe://bank.test/good") {
			t.Errorf("%s: on record is %+v", test.name, last)
		}
		for _, method := range named {
			got := stranger.ask(t, test.claim(method, "spiffe://bank.test/good"))
			if got.text != wantStranger {
				t.Errorf("%s: /stranger got %s for %s, want %s", test.name, got.text, method, wantStranger)
			}
			w.sameIsRecorded(t, test.name, got, "spiffe://bank.test/stranger", method)
		}
		if n := reached.Swap(0); n != 0 {
			t.Fatalf("%s: the handler was reached %d times by /stranger", test.name, n)
		}
	}
}

// says adds headers to a well-formed request: each a name, and what stands in its value before the ID.
func says(pairs ...string) func(method, id string) []hpack.HeaderField {
	return func(method, id string) []hpack.HeaderField {
		var claims []string
		for i := 0; i < len(pairs); i += 2 {
			claims = append(claims, pairs[i], pairs[i+1]+id)
		}
		return also(claims...)(method)
	}
}
