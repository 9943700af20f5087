package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
)

// onSPIRE lays a mesh out on SPIRE whose SVIDs and authorities live for so long, and starts it.
func onSPIRE(t *testing.T, svidTTL, authorityTTL time.Duration) (*bank.Apart, *bank.SPIRE) {
	t.Helper()
	bin := bank.SPIREBin(t) // before anything is laid out
	home := dist.NewHome(t)
	untiring(t, home)
	mesh := home.Apart(t)
	spire := mesh.OnSPIRE(t, bin, svidTTL, authorityTTL)
	spire.StartAll(t)
	return mesh, spire
}

// payOn starts eight phones that pay without a pause, and workloads that ask without one, half of them with the library, half with grpc-go as it comes.
// The function that is returned stops them and fails the test for each call that failed, and for each payment that is not in the books, once.
func payOn(t *testing.T, mesh *bank.Apart) (calling *bank.Callers, stop func()) {
	t.Helper()
	calling = bank.NewCallers(t)
	askLedger(t, mesh, calling)
	customers := openFor(t, mesh, mesh.Identity(t, "operator"), 8, 1_000_000)
	calling.Add(t.Context(), payFrom(customers...), customerNames(customers)...)
	begin := time.Now()
	return calling, func() {
		t.Helper()
		outcomes := calling.Stop()
		failed := bank.Failures(outcomes)
		if len(failed) > 0 {
			t.Errorf("%d of %d calls failed:\n%s", len(failed), len(outcomes), bank.Describe(failed))
		}
		t.Logf("%d calls in %v, %d failed; %s", len(outcomes), time.Since(begin).Round(time.Second), len(failed), bank.Durations(outcomes))
		checkBooks(t, mesh, mesh.Identity(t, "operator"), customers)
	}
}

// TestSPIREIsConfiguredForProcesses needs no SPIRE: the tests here run on deploy/spire, changed where processes differ from containers, and what they
// change has to be there. They are skipped where there is no SPIRE.
func TestSPIREIsConfiguredForProcesses(t *testing.T) {
	dist.NewHome(t).Apart(t).OnSPIRE(t, t.TempDir(), time.Minute, time.Hour)
}

// TestUpOnSPIRE starts the mesh as a person does, on SPIRE in the embedded authority's place, kills all of it, and starts it again, with the authority
// in between: each time every service has its own identity, and SPIRE's trust domain is the same as before.
func TestUpOnSPIRE(t *testing.T) {
	bin := bank.SPIREBin(t)
	home := dist.NewHome(t)
	up := func(args ...string) *bank.Mesh {
		t.Helper()
		mesh := home.Up(t, args...)
		operator := mesh.Identity(t, "operator")
		for _, service := range bank.Services() {
			// Its SVID must have the service's name in it.
			if err := bank.Healthy(t.Context(), mesh.Dial(t, operator, service)); err != nil {
				t.Errorf("%s: %v", service, err)
			}
		}
		return mesh
	}
	onSPIRE := []string{"--spire", "--spire-bin=" + bin}
	mesh := up(onSPIRE...)
	first := mesh.Identity(t, "operator").Roots
	out, code := mesh.CLI(t, "status")
	for _, want := range []string{"spire-server", "spire-agent"} {
		if code != 0 || !strings.Contains(out, want) || mesh.Program(t, want).PID == 0 {
			t.Errorf("status, exit code %d, or mesh.json lacks %s:\n%s", code, want, out)
		}
	}
	if said := mesh.Up.Output(); !strings.Contains(said, "given its SVID, by SPIRE ") {
		t.Errorf("it is not said who attests:\n%s", said)
	}

	mesh.Up.Signal(t, syscall.SIGKILL)
	mesh.Up.Wait(t, 5*time.Second)
	if out, code := mesh.CLI(t, "down"); code != 0 {
		t.Errorf("down after kill -9: exit code %d:\n%s", code, out)
	}
	for _, program := range mesh.Programs {
		if bank.Alive(t, program.PID) {
			t.Errorf("%s is still there", program.Name)
		}
	}
	if left, err := os.ReadDir(filepath.Join(home.RunDir, "api")); err != nil || len(left) > 0 {
		t.Errorf("sockets are still there: %v, %v", left, err)
	}

	mesh = up()
	if mesh.Identity(t, "operator").Roots.Equal(first) {
		t.Error("the embedded authority has SPIRE's keys")
	}
	if code := mesh.Stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	mesh = up(onSPIRE...)
	if !mesh.Identity(t, "operator").Roots.Equal(first) {
		t.Error("SPIRE's trust domain has other authorities after a restart")
	}
	if code := mesh.Stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestDemoOnSPIRE plays the story twice on SPIRE, and sees all come out that comes out on the embedded authority.
func TestDemoOnSPIRE(t *testing.T) {
	mesh := dist.NewHome(t).Up(t, "--spire", "--spire-bin="+bank.SPIREBin(t), "--svid-ttl=20s")
	for _, time := range []string{"first", "second"} {
		if out, code := mesh.CLI(t, "demo"); code != 0 {
			t.Fatalf("the %s time: exit code %d:\n%s", time, code, out)
		}
	}
}

// TestAChangedBinaryHasNoIdentityFromSPIRE puts another program where the CLI was when its entry was made: same path, same user.
func TestAChangedBinaryHasNoIdentityFromSPIRE(t *testing.T) {
	mesh, _ := onSPIRE(t, time.Minute, time.Hour)
	if out, code := mesh.Ask(t, "risk"); code != 0 {
		t.Fatalf("before: exit code %d:\n%s", code, out)
	}
	path := mesh.Path("bin", "actors", "burglar")
	binary, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil { // a hard link of others
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(binary, "changed"...), 0o700); err != nil {
		t.Fatal(err)
	}
	if out, code := mesh.Ask(t, "risk"); code == 0 || !strings.Contains(out, "no identity issued") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

// TestSPIRERotation is TestRotation on SPIRE: SVIDs of twenty seconds, of which an agent makes another some five seconds later.
func TestSPIRERotation(t *testing.T) {
	const svidTTL, authorityTTL = 20 * time.Second, 2 * time.Minute
	mesh, _ := onSPIRE(t, svidTTL, authorityTTL)
	begin := time.Now()
	calling, stop := payOn(t, mesh)
	untilItFails(t, calling, soak(t, time.Minute))
	lasted := time.Since(begin)
	for _, service := range bank.Services() {
		if n, want := mesh.SVIDRotations(t, service), int(lasted/(svidTTL/2)); n < want {
			t.Errorf("%s has had %d SVIDs in %v, want %d or more", service, n, lasted, want)
		}
		if cut := mesh.Metric(t, service, "countersign_connections_cut_total"); cut > 0 {
			t.Errorf("%s has cut %.0f connections of peers that were good", service, cut)
		}
	}
	t.Logf("payments has had %d SVIDs in %v", mesh.SVIDRotations(t, "payments"), lasted.Round(time.Second))
	stop()
}

// TestSPIREAuthorityReplaced has the server sign with another authority ahead of time, as after the loss of its key: another is prepared and activated, the
// old one is tainted, and revoked as soon as nobody shows an SVID of it any more. No call fails.
func TestSPIREAuthorityReplaced(t *testing.T) {
	mesh, spire := onSPIRE(t, time.Minute, time.Hour)
	calling, stop := payOn(t, mesh)
	untilItFails(t, calling, 3*time.Second)
	old := spire.Authority(t, "show")
	if len(spire.Shown(t, old)) == 0 {
		t.Fatalf("no connection is seen of the authority %s", old)
	}
	next := spire.Authority(t, "prepare")
	if got := spire.Authority(t, "activate", "-authorityID", next); got != next || next == old {
		t.Fatalf("the authority %s was prepared after %s, and %s activated", next, old, got)
	}
	spire.Authority(t, "taint", "-authorityID", old)
	tainted := time.Now()
	bank.Eventually(t, 2*time.Minute, func() string {
		if shown := spire.Shown(t, old); len(shown) > 0 {
			return fmt.Sprintf("%d connections still show the old authority: %q", len(shown), shown)
		}
		return ""
	})
	t.Logf("nobody shows the old authority any more %v after it was tainted", time.Since(tainted).Round(100*time.Millisecond))
	spire.Authority(t, "revoke", "-authorityID", old)
	revoked := time.Now()
	bank.Eventually(t, 30*time.Second, func() string {
		for _, service := range bank.Services() {
			if text := bank.Get(t, mesh.Ops(service), "/metrics"); strings.Contains(text, old) {
				return service + " still trusts the old authority"
			}
		}
		return ""
	})
	t.Logf("nobody trusts it any more %v after it was revoked", time.Since(revoked).Round(100*time.Millisecond))
	untilItFails(t, calling, 5*time.Second)
	for _, service := range bank.Services() {
		if cut := mesh.Metric(t, service, "countersign_connections_cut_total"); cut > 0 {
			t.Errorf("%s has cut %.0f connections of peers that were good", service, cut)
		}
	}
	stop()
}

// TestSPIREEntryRemoved takes risk's entries out of the registration file: the service loses its identity, nobody can reach it, and a process that is
// started as risk gets none. Put in again they give it back, with no restart.
func TestSPIREEntryRemoved(t *testing.T) {
	mesh, spire := onSPIRE(t, time.Hour, 24*time.Hour)
	operator := mesh.Identity(t, "operator")
	open := mesh.Dial(t, operator, "risk")
	if err := bank.Healthy(t.Context(), open); err != nil {
		t.Fatal(err)
	}
	with, err := os.ReadFile(spire.Entries())
	if err != nil {
		t.Fatal(err)
	}
	mesh.Edit(t, spire.Entries(), func(text string) string {
		const entry = "  - spiffe_id: "
		all := strings.Split(text, entry)
		return strings.Join(slices.DeleteFunc(all, func(e string) bool { return strings.HasPrefix(e, "/risk\n") }), entry)
	})
	if out := spire.Register(t); !strings.Contains(out, "2 removed") {
		t.Fatal(out)
	}
	removed := time.Now()
	bank.Eventually(t, 15*time.Second, func() string {
		if why := mesh.Ready(t.Context(), "risk"); !strings.Contains(why, "no identity issued") {
			return "risk has its identity: " + why
		}
		return ""
	})
	lost := time.Since(removed)
	if err := bank.Healthy(t.Context(), open); err == nil {
		t.Error("risk still answers on a connection of before")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := bank.Healthy(ctx, mesh.Dial(t, operator, "risk")); err == nil {
		t.Error("risk still answers on a new connection")
	}
	if out, code := mesh.Ask(t, "risk"); code == 0 || !strings.Contains(out, "no identity issued") {
		t.Errorf("a process that is started as risk: exit code %d:\n%s", code, out)
	}
	if err := os.WriteFile(spire.Entries(), with, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := spire.Register(t); !strings.Contains(out, "2 entries created") {
		t.Fatal(out)
	}
	back := time.Now()
	bank.Eventually(t, 15*time.Second, func() string { return mesh.Ready(t.Context(), "risk") })
	t.Logf("risk lost its identity %v after its entry was removed, and had it again %v after it was there again",
		lost.Round(10*time.Millisecond), time.Since(back).Round(10*time.Millisecond))
	bank.Eventually(t, 5*time.Second, func() string {
		if err := bank.Healthy(t.Context(), open); err != nil {
			return err.Error()
		}
		return ""
	})
}

// TestSPIREKilled kills the agent and the server in turn under load: both are an outage and no more. Calls go on, an agent alone still gives
// identities, and the trust domain is the same afterwards.
func TestSPIREKilled(t *testing.T) {
	mesh, _ := onSPIRE(t, time.Minute, time.Hour)
	before := mesh.Identity(t, "operator")
	calling, stop := payOn(t, mesh)
	for n := range rounds(4, 20) {
		program := []string{bank.SPIREAgent, bank.SPIREServer}[n%2]
		mesh.Kill(t, program)
		untilItFails(t, calling, 3*time.Second)
		if program == bank.SPIREServer {
			if err := bank.Healthy(t.Context(), mesh.Dial(t, mesh.Identity(t, "operator"), "audit")); err != nil {
				t.Errorf("with an SVID that the agent gave without its server: %v", err)
			}
		} else if err := bank.Healthy(t.Context(), mesh.Dial(t, before, "ledger")); err != nil {
			t.Errorf("a new connection while the agent is away: %v", err)
		}
		mesh.Start(t, program)
		untilItFails(t, calling, 3*time.Second)
	}
	for _, service := range bank.Services() {
		if n := mesh.SVIDRotations(t, service); n == 0 {
			t.Errorf("%s has had no new SVID since the first kill", service)
		}
	}
	if after := mesh.Identity(t, "operator"); !after.Roots.Equal(before.Roots) {
		t.Error("the trust domain has other authorities after the kills")
	}
	stop()
}
