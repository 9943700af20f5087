package workload

import (
	"bytes"
	"crypto/x509"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	workloadv1 "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func jwtParams(audience string) jwtsvid.Params { return jwtsvid.Params{Audience: audience} }

// breakState makes the state unwritable for good.
func breakState(t *testing.T, r *rig) {
	t.Helper()
	dir := r.socket[:len(r.socket)-len("/api.sock")]
	if err := os.Rename(dir+"/state", dir+"/away"); err != nil {
		t.Fatal(err)
	}
}

func gather(t *testing.T, r *rig) map[string]float64 {
	t.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			label := ""
			for _, l := range m.GetLabel() {
				label += l.GetValue()
			}
			values[family.GetName()+"{"+label+"}"] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return values
}

func open(t *testing.T, r *rig) grpc.ServerStreamingClient[workloadv1.X509SVIDResponse] {
	t.Helper()
	client, _ := r.raw()
	stream, err := client.FetchX509SVID(header(t), &workloadv1.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func receive[T any](t *testing.T, stream grpc.ServerStreamingClient[T]) *T {
	t.Helper()
	message, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return message
}

// complete holds a message against all that one must have (ATTACKS 20, 29), and returns the leaves.
func complete(t *testing.T, message *workloadv1.X509SVIDResponse, ids ...string) []*x509.Certificate {
	t.Helper()
	var got []string
	var leaves []*x509.Certificate
	for _, svid := range message.GetSvids() {
		got = append(got, svid.GetSpiffeId())
		certs, err := x509.ParseCertificates(svid.GetX509Svid())
		if err != nil {
			t.Fatal(err)
		}
		if uri := certs[0].URIs[0].String(); uri != svid.GetSpiffeId() {
			t.Errorf("spiffe_id %s, certificate %s", svid.GetSpiffeId(), uri)
		}
		if _, err := x509.ParsePKCS8PrivateKey(svid.GetX509SvidKey()); err != nil {
			t.Errorf("key: %v", err)
		}
		if roots, err := x509.ParseCertificates(svid.GetBundle()); err != nil || len(roots) == 0 {
			t.Errorf("bundle: %v", err)
		}
		leaves = append(leaves, certs[0])
	}
	if diff := cmp.Diff(ids, got); diff != "" {
		t.Fatalf("identities: %s", diff)
	}
	return leaves
}

// ATTACKS 20: at once, and whole.
func TestTheFirstMessageComesAtOnceAndWhole(t *testing.T) {
	t.Parallel()
	r := start(t, config(), entry("/ledger", self(t), ", hint: main, dns_names: [ledger]")+entry("/other", self(t), ", svid_ttl: 60s"))
	begun := time.Now()
	message := receive(t, open(t, r))
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
	leaves := complete(t, message, "spiffe://bank.test/ledger", "spiffe://bank.test/other")
	if message.GetSvids()[0].GetHint() != "main" || message.GetSvids()[1].GetHint() != "" {
		t.Error("the hints are wrong")
	}
	if err := leaves[0].VerifyHostname("ledger"); err != nil {
		t.Error(err)
	}
	if life := time.Until(leaves[1].NotAfter); life > time.Minute {
		t.Errorf("the second lives for %s, its entry says a minute", life)
	}
}

func TestANewSVIDComesAtHalfOfItsLife(t *testing.T) {
	t.Parallel()
	c := config()
	c.SVIDTTL, c.JWTTTL = 4*time.Second, 4*time.Second
	r := start(t, c, entry("/ledger", self(t), ""))
	stream := open(t, r)
	before := complete(t, receive(t, stream), "spiffe://bank.test/ledger")[0]
	begun := time.Now()
	after := complete(t, receive(t, stream), "spiffe://bank.test/ledger")[0]
	// A certificate's end is cut to a whole second.
	if took := time.Since(begun); took < 1300*time.Millisecond || took > 3*time.Second {
		t.Errorf("it came after %s of 4 s", took)
	}
	if before.SerialNumber.Cmp(after.SerialNumber) == 0 || cmp.Equal(before.RawSubjectPublicKeyInfo, after.RawSubjectPublicKeyInfo) {
		t.Error("serial or key are the same")
	}
	if !time.Now().Before(before.NotAfter) {
		t.Error("the one before has expired")
	}
}

// ATTACKS 38, 39: after a sleep, and after the clock was set back, a stream notices by itself.
func TestAJumpOfTheClockBringsANewSVID(t *testing.T) {
	t.Parallel()
	r := start(t, config(), entry("/ledger", self(t), ""))
	stream := open(t, r)
	complete(t, receive(t, stream), "spiffe://bank.test/ledger")
	for _, jump := range []time.Duration{2 * time.Hour, -5 * time.Minute} {
		r.clock.Advance(jump)
		leaf := complete(t, receive(t, stream), "spiffe://bank.test/ledger")[0]
		if now := r.clock.Now(); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
			t.Errorf("after a jump of %s it is valid %s to %s at %s", jump, leaf.NotBefore, leaf.NotAfter, now)
		}
	}
}

func TestRenewalIsSpreadAroundHalfOfTheLife(t *testing.T) {
	t.Parallel()
	now := time.Now()
	seen := make(map[time.Duration]bool)
	for range 1000 {
		after := renewal(now, now.Add(time.Hour)).Sub(now)
		if after < 27*time.Minute || after > 33*time.Minute {
			t.Fatalf("after %s", after)
		}
		seen[after] = true
	}
	if len(seen) < 900 {
		t.Errorf("%d different of 1000", len(seen))
	}
	if after := renewal(now, now.Add(time.Millisecond)).Sub(now); after < minRenewal {
		t.Errorf("without pause: after %s", after)
	}
}

// All streams get what an authority that was prepared adds.
func TestARotationIsPushed(t *testing.T) {
	t.Parallel()
	r := start(t, config(), entry("/ledger", self(t), ""))
	client, _ := r.raw()
	x509Bundles, err := client.FetchX509Bundles(header(t), &workloadv1.X509BundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	jwtBundles, err := client.FetchJWTBundles(header(t), &workloadv1.JWTBundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	svids := open(t, r)
	x509Before := receive(t, x509Bundles).GetBundles()["spiffe://bank.test"]
	jwtBefore := receive(t, jwtBundles).GetBundles()["spiffe://bank.test"]
	svidBefore := receive(t, svids).GetSvids()[0].GetBundle()
	if !bytes.Equal(x509Before, svidBefore) || len(jwtBefore) == 0 {
		t.Error("the bundles at first differ")
	}
	r.clock.Advance(12*time.Hour + time.Minute)
	x509After := receive(t, x509Bundles).GetBundles()["spiffe://bank.test"]
	if !bytes.HasPrefix(x509After, x509Before) || len(x509After) <= len(x509Before) {
		t.Error("the X.509 bundle did not grow")
	}
	if jwtAfter := receive(t, jwtBundles).GetBundles()["spiffe://bank.test"]; len(jwtAfter) <= len(jwtBefore) {
		t.Error("the JWT bundle did not grow")
	}
	for message := receive(t, svids); !bytes.Equal(message.GetSvids()[0].GetBundle(), x509After); {
		message = receive(t, svids) // the renewal after the jump may come before the rotation
	}
}

func TestAChangeOfItsEntriesIsPushedAndOthersAreNot(t *testing.T) {
	t.Parallel()
	own, other := entry("/ledger", self(t), ""), entry("/other", self(t), "")
	r := start(t, config(), own)
	stream := open(t, r)
	complete(t, receive(t, stream), "spiffe://bank.test/ledger")
	r.registerAndWait(own + entry("/stranger", "/stranger", ""))
	r.registerAndWait(own + other)
	complete(t, receive(t, stream), "spiffe://bank.test/ledger", "spiffe://bank.test/other")
	r.registerAndWait(entry("/ledger", self(t), ", dns_names: [ledger]"))
	if leaf := complete(t, receive(t, stream), "spiffe://bank.test/ledger")[0]; !cmp.Equal(leaf.DNSNames, []string{"ledger"}) {
		t.Errorf("DNS names %v", leaf.DNSNames)
	}
}

// ATTACKS 22: on every stream.
func TestAWithdrawnIdentityEndsItsStreams(t *testing.T) {
	t.Parallel()
	r := start(t, config(), entry("/ledger", self(t), ""))
	client, _ := r.raw()
	ctx := header(t)
	x509Bundles, err := client.FetchX509Bundles(ctx, &workloadv1.X509BundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	jwtBundles, err := client.FetchJWTBundles(ctx, &workloadv1.JWTBundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	svids := open(t, r)
	receive(t, x509Bundles)
	receive(t, jwtBundles)
	receive(t, svids)
	r.registerAndWait("")
	for name, next := range map[string]func() error{
		"FetchX509SVID":    func() error { _, err := svids.Recv(); return err },
		"FetchX509Bundles": func() error { _, err := x509Bundles.Recv(); return err },
		"FetchJWTBundles":  func() error { _, err := jwtBundles.Recv(); return err },
	} {
		if err := next(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v, want PERMISSION_DENIED", name, err)
		}
	}
}

// A file that is wrong changes nothing: streams go on, and new ones open.
func TestABrokenRegistrationFileChangesNothing(t *testing.T) {
	t.Parallel()
	r := start(t, config(), entry("/ledger", self(t), ""))
	stream := open(t, r)
	receive(t, stream)
	r.register("  - {spiffe_id: /ledger, selectors: ['unix:uid:0']}\n")
	deadline := time.Now().Add(10 * time.Second)
	for !bytes.Contains([]byte(r.log.String()), []byte("last good entries stay in force")) {
		if time.Now().After(deadline) {
			t.Fatal("the broken file was not noticed")
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // the poll of a condition with a bound
	}
	receive(t, open(t, r))
	r.registerAndWait(entry("/ledger", self(t), "") + entry("/more", self(t), ""))
	complete(t, receive(t, stream), "spiffe://bank.test/ledger", "spiffe://bank.test/more")
}
