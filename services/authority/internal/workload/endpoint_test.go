package workload

import (
	"encoding/pem"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	workloadv1 "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// ATTACKS 19: the header, exactly once and exactly so, on every method, also on those that do not exist.
func TestTheHeaderIsRequired(t *testing.T) {
	t.Parallel()
	r := start(t, config(), entry("/ledger", self(t), ""))
	client, conn := r.raw()
	for name, pairs := range map[string][]string{
		"missing":       {},
		"false":         {"workload.spiffe.io", "false"},
		"True":          {"workload.spiffe.io", "True"},
		"empty":         {"workload.spiffe.io", ""},
		"with a space":  {"workload.spiffe.io", "true, true"},
		"twice":         {"workload.spiffe.io", "true", "workload.spiffe.io", "true"},
		"true, false":   {"workload.spiffe.io", "true", "workload.spiffe.io", "false"},
		"another name":  {"workload.spiffe.io.", "true"},
		"a binary name": {"workload.spiffe.io-bin", "true"},
	} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), pairs...)
		all := calls(ctx, client)
		all["an unknown method"] = func() error {
			return conn.Invoke(ctx, "/SpiffeWorkloadAPI/Nothing", &workloadv1.X509SVIDRequest{}, &workloadv1.X509SVIDResponse{})
		}
		all["FetchWITSVID"] = func() error { return first(client.FetchWITSVID(ctx, &workloadv1.WITSVIDRequest{})) }
		for method, call := range all {
			wantCode(t, method+" with the header "+name, call(), codes.InvalidArgument)
		}
	}
}

// ATTACKS 21: what is not served is UNIMPLEMENTED, reflection and health too.
func TestOnlyTheWorkloadAPIIsServed(t *testing.T) {
	t.Parallel()
	r := start(t, config(), entry("/ledger", self(t), ""))
	client, conn := r.raw()
	ctx := header(t)
	wantCode(t, "FetchWITSVID", first(client.FetchWITSVID(ctx, &workloadv1.WITSVIDRequest{})), codes.Unimplemented)
	for _, method := range []string{
		"/SpiffeWorkloadAPI/Nothing", "/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
	} {
		err := conn.Invoke(ctx, method, &workloadv1.X509SVIDRequest{}, &workloadv1.X509SVIDResponse{})
		wantCode(t, method, err, codes.Unimplemented)
	}
}

// ATTACKS 21: no entry, no identity, and the caller is not told more than that. The log says what is missing, and it can be
// pasted as it stands.
func TestAProcessWithoutAnEntryGetsNothing(t *testing.T) {
	t.Parallel()
	r := start(t, config(), "")
	client, _ := r.raw()
	for method, call := range calls(header(t), client) {
		err := call()
		wantCode(t, method, err, codes.PermissionDenied)
		if got := status.Convert(err).Message(); got != "no identity issued" {
			t.Errorf("%s tells the caller %q", method, got)
		}
	}
	var line string
	for l := range strings.Lines(r.log.String()) {
		if strings.Contains(l, "missing_entry") {
			if line != "" {
				t.Errorf("it was logged twice:\n%s%s", line, l)
			}
			line = l
		}
	}
	if !strings.Contains(line, "level=WARN") || !strings.Contains(line, "unix:path:"+self(t)) || !strings.Contains(line, "unix:sha256:") {
		t.Fatalf("the log says\n%s", line)
	}
	_, missing, _ := strings.Cut(line, `missing_entry="`)
	missing, _, _ = strings.Cut(missing, `"`)
	r.registerAndWait("  " + missing + "\n")
	calls := calls(header(t), client)
	delete(calls, "ValidateJWTSVID") // whose token is not one
	for method, call := range calls {
		wantCode(t, method+" after the entry was pasted", call(), codes.OK)
	}
}

func TestDenialsAreLoggedWithinBounds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDenials(nil)
		admitted, counted := 0, 0
		for i := range 10100 {
			if suppressed, ok := d.admit(strings.Repeat("x", max(0, i-100))); ok { // a hundred times the same, then others
				admitted++
				counted += suppressed
			}
			if i == 99 && admitted != 1 {
				t.Errorf("the same was logged %d times", admitted)
			}
		}
		if admitted > denialBurst {
			t.Errorf("%d lines were logged at once", admitted)
		}
		time.Sleep(sameInterval) //nolint:forbidigo // the bubble's clock
		if suppressed, ok := d.admit(""); !ok || counted+suppressed != 10100-admitted {
			t.Errorf("after a while: %d, %t", suppressed, ok)
		}
		for i := range 2 * maxKnown {
			time.Sleep(time.Second) //nolint:forbidigo // the bubble's clock
			if _, ok := d.admit(strings.Repeat("y", i+1)); !ok {
				t.Fatal("one a second is too much")
			}
		}
		if len(d.logged) > maxKnown {
			t.Errorf("%d are remembered", len(d.logged))
		}
	})
}

// ATTACKS 21: not ready is UNAVAILABLE.
func TestWithoutASigningKeyNothingIsIssued(t *testing.T) {
	t.Parallel()
	r := start(t, config(), entry("/ledger", self(t), ""))
	client, _ := r.raw()
	all := calls(header(t), client)
	breakState(t, r) // so that no new key can come into use
	r.clock.Advance(48 * time.Hour)
	for _, method := range []string{"FetchX509SVID", "FetchJWTSVID"} {
		wantCode(t, method, all[method](), codes.Unavailable)
	}
}

// ATTACKS 21: a workload sees that the authority stops as UNAVAILABLE, and tries again.
func TestStopEndsStreams(t *testing.T) {
	t.Parallel()
	r := start(t, config(), entry("/ledger", self(t), ""))
	client, _ := r.raw()
	ctx := header(t)
	stream, err := client.FetchX509SVID(ctx, &workloadv1.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	r.stop()
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("%v, want UNAVAILABLE", err)
	}
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("it took %s", took)
	}
}

// ATTACKS 24: the empty audience; and what else is malformed or not the caller's.
func TestJWTRequestsAreChecked(t *testing.T) {
	t.Parallel()
	r := start(t, config(), entry("/ledger", self(t), ""))
	client, _ := r.raw()
	ctx := header(t)
	for name, test := range map[string]struct {
		req  *workloadv1.JWTSVIDRequest
		want codes.Code
	}{
		"no audience":       {&workloadv1.JWTSVIDRequest{}, codes.InvalidArgument},
		"an empty audience": {&workloadv1.JWTSVIDRequest{Audience: []string{"a", ""}}, codes.InvalidArgument},
		"no SPIFFE ID":      {&workloadv1.JWTSVIDRequest{Audience: []string{"a"}, SpiffeId: "ledger"}, codes.InvalidArgument},
		"another's ID":      {&workloadv1.JWTSVIDRequest{Audience: []string{"a"}, SpiffeId: "spiffe://bank.test/risk"}, codes.PermissionDenied},
		"its own":           {&workloadv1.JWTSVIDRequest{Audience: []string{"a"}, SpiffeId: "spiffe://bank.test/ledger"}, codes.OK},
	} {
		_, err := client.FetchJWTSVID(ctx, test.req)
		wantCode(t, name, err, test.want)
	}
	for name, req := range map[string]*workloadv1.ValidateJWTSVIDRequest{
		"no audience": {Svid: "x"},
		"no token":    {Audience: "a"},
		"no JWT":      {Svid: "x", Audience: "a"},
	} {
		_, err := client.ValidateJWTSVID(ctx, req)
		wantCode(t, name, err, codes.InvalidArgument)
	}
}

// A panic is a fixed text for the caller, and the endpoint lives.
func TestAPanicIsAnsweredAndLogged(t *testing.T) {
	t.Parallel()
	r := start(t, config(), entry("/ledger", self(t), ""))
	err := r.server.status(t.Context(), "FetchX509SVID", r.server.recovered(t.Context(), "a secret"))
	wantCode(t, "a panic", err, codes.Internal)
	if strings.Contains(err.Error(), "secret") || !strings.Contains(r.log.String(), "a secret") {
		t.Errorf("the caller sees %v", err)
	}
}

// ATTACKS 32: no private key in any log.
func TestNoKeyIsLogged(t *testing.T) {
	t.Parallel()
	r := start(t, config(), entry("/ledger", self(t), ""))
	svid, err := r.client().FetchX509SVID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	token, err := r.client().FetchJWTSVID(t.Context(), jwtParams("audit"))
	if err != nil {
		t.Fatal(err)
	}
	_, keyPEM, err := svid.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(keyPEM)
	log := r.log.String()
	for name, secret := range map[string]string{
		"key":   string(block.Bytes),
		"PEM":   strings.Split(string(keyPEM), "\n")[1],
		"token": token.Marshal(),
	} {
		if strings.Contains(log, secret) {
			t.Errorf("the %s was logged", name)
		}
	}
	if !strings.Contains(log, "issued an X.509-SVID") || !strings.Contains(log, svid.Certificates[0].SerialNumber.Text(16)) {
		t.Error("what was issued is not logged")
	}
}

func TestMetricsTellWhatHappened(t *testing.T) {
	t.Parallel()
	r := start(t, config(), entry("/ledger", self(t), ""))
	client, _ := r.raw()
	stream, err := client.FetchX509SVID(header(t), &workloadv1.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.FetchJWTSVID(header(t), &workloadv1.JWTSVIDRequest{Audience: []string{"a"}}); err != nil {
		t.Fatal(err)
	}
	r.registerAndWait("")
	if _, err := stream.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Fatal(err)
	}
	got := gather(t, r)
	want := map[string]float64{
		"countersign_authority_svids_issued_total{jwt}":                   1,
		"countersign_authority_svids_issued_total{x509}":                  1,
		"countersign_authority_attestations_denied_total{}":               1,
		"countersign_authority_streams{FetchX509SVID}":                    0,
		"countersign_authority_registration_entries{}":                    1,
		"countersign_authority_expiry_timestamp_seconds{x509} is in 24 h": 1,
	}
	if at := got["countersign_authority_expiry_timestamp_seconds{x509}"]; time.Until(time.Unix(int64(at), 0)) > 23*time.Hour {
		got["countersign_authority_expiry_timestamp_seconds{x509} is in 24 h"] = 1
	}
	for name := range maps.Keys(want) {
		if got[name] != want[name] {
			t.Errorf("%s is %v, want %v", name, got[name], want[name])
		}
	}
}
