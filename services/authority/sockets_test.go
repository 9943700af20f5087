package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	workloadv1 "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// containers is a place with a socket for each of three names beside the plain one. This process is /process on that.
func containers(t *testing.T) place {
	t.Helper()
	p := newPlace(t)
	p.args = append(p.args, "--sockets="+p.dir+"/sockets")
	p.register(t, "ledger", "payments", "burglar")
	return p
}

// register puts a registration file in place that gives this process, by its path /process, by each socket its name, and by a label /audit.
func (p place) register(t *testing.T, names ...string) {
	t.Helper()
	self := executable(t)
	text := fmt.Sprintf("trust_domain: bank.test\nentries:\n  - {spiffe_id: /process, selectors: ['unix:path:%s']}\n", self)
	text += "  - {spiffe_id: /audit, selectors: ['docker:label:countersign.workload:audit']}\n"
	for _, name := range names {
		id := strings.ReplaceAll(name, "burglar", "risk")
		text += fmt.Sprintf("  - {spiffe_id: /%s, selectors: ['socket:%s', 'unix:uid:%d']}\n", id, name, os.Getuid())
		text += fmt.Sprintf("  - {spiffe_id: /%s, selectors: ['docker:label:countersign.workload:%s']}\n", id, name)
	}
	if err := os.WriteFile(p.dir+"/new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(p.dir+"/new", p.dir+"/entries.yaml"); err != nil {
		t.Fatal(err)
	}
}

// caller is a client on one socket, with a bound for all that it does.
type caller struct {
	api workloadv1.SpiffeWorkloadAPIClient
	ctx context.Context
}

func call(t *testing.T, socket string) caller {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return caller{workloadv1.NewSpiffeWorkloadAPIClient(conn), metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")}
}

// follow opens a stream of X.509-SVIDs.
func (c caller) follow(t *testing.T) grpc.ServerStreamingClient[workloadv1.X509SVIDResponse] {
	t.Helper()
	stream, err := c.api.FetchX509SVID(c.ctx, &workloadv1.X509SVIDRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// receive returns the paths of the identities in the next message.
func receive(t *testing.T, stream grpc.ServerStreamingClient[workloadv1.X509SVIDResponse]) (ids []string) {
	t.Helper()
	message, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, svid := range message.GetSvids() {
		ids = append(ids, strings.TrimPrefix(svid.GetSpiffeId(), "spiffe://bank.test"))
	}
	return ids
}

// ATTACKS 31, 67: it is the same process each time, with the same uid and the same executable, and asks for all that it can ask for. What
// it is depends on the socket that it can reach, and on nothing else. Nobody is /audit, which is for SPIRE to attest.
func TestACallerIsWhomItsSocketWasGivenToAndNobodyElse(t *testing.T) {
	t.Parallel()
	p := containers(t)
	logs := &output{}
	begin(t, logs, p.args...)
	if _, err := fetch(t, p); err != nil { // it serves
		t.Fatal(err)
	}
	all := []string{"/process", "/ledger", "/payments", "/risk", "/audit"}
	for socket, want := range map[string]string{
		"/api.sock":                  "/process",
		"/sockets/ledger/api.sock":   "/ledger",
		"/sockets/payments/api.sock": "/payments",
		"/sockets/burglar/api.sock":  "/risk",
	} {
		for range 3 { // as with three containers of one service
			c := call(t, p.dir+socket)
			if got := receive(t, c.follow(t)); !slices.Equal(got, []string{want}) {
				t.Errorf("%s gives %v, want %s", socket, got, want)
			}
			for _, id := range all {
				_, err := c.api.FetchJWTSVID(c.ctx, &workloadv1.JWTSVIDRequest{Audience: []string{"audit"}, SpiffeId: "spiffe://bank.test" + id})
				code := codes.PermissionDenied
				if id == want {
					code = codes.OK
				}
				if status.Code(err) != code {
					t.Errorf("%s asked for a JWT-SVID of %s: %v, want %s", socket, id, err, code)
				}
			}
		}
	}
	for _, want := range []string{"spiffe_id=spiffe://bank.test/ledger serial=", "socket=ledger uid=", "are for SPIRE to attest and match nobody here\" entries=4"} {
		if !strings.Contains(logs.String(), want) {
			t.Errorf("the log does not say %q", want)
		}
	}
}

// ATTACKS 22, 67: an identity that is withdrawn is gone at once, for the stream that is open and for the next; the others keep theirs.
func TestAnIdentityBySocketThatIsWithdrawnEndsItsStreams(t *testing.T) {
	t.Parallel()
	p := containers(t)
	logs := &output{}
	stop := begin(t, logs, p.args...)
	if _, err := fetch(t, p); err != nil {
		t.Fatal(err)
	}
	ledger, payments := call(t, p.dir+"/sockets/ledger/api.sock"), call(t, p.dir+"/sockets/payments/api.sock")
	withdrawn, kept := ledger.follow(t), payments.follow(t)
	receive(t, withdrawn)
	receive(t, kept)
	p.register(t, "payments", "risk")
	if _, err := withdrawn.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the stream that was open: %v, want PERMISSION_DENIED", err)
	}
	if _, err := ledger.follow(t).Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a new stream: %v, want PERMISSION_DENIED", err)
	}
	if got := receive(t, payments.follow(t)); !slices.Equal(got, []string{"/payments"}) {
		t.Errorf("the other is %v", got)
	}
	if got := receive(t, call(t, p.dir+"/sockets/risk/api.sock").follow(t)); !slices.Equal(got, []string{"/risk"}) {
		t.Errorf("a socket that came later gives %v", got)
	}
	if want := "missing_entry=\"- {spiffe_id: /ledger, selectors: ['socket:ledger']}\""; !strings.Contains(logs.String(), want) {
		t.Errorf("the log does not say %s", want)
	}
	p.register(t, "ledger", "payments")
	for receivedBy := time.Now().Add(10 * time.Second); ; {
		if message, err := ledger.follow(t).Recv(); err == nil && len(message.GetSvids()) == 1 {
			break
		}
		if time.Now().After(receivedBy) {
			t.Fatal("an identity that is given back does not come")
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := kept.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("after the stop: %v, want UNAVAILABLE", err)
	}
	for _, socket := range []string{"/api.sock", "/sockets/ledger/api.sock", "/sockets/risk/api.sock"} {
		if _, err := os.Lstat(p.dir + socket); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s after the stop: %v", socket, err)
		}
	}
}

// In a container there is no plain socket: then no process is known by what it runs.
func TestAnAuthorityCanServeSocketsWithANameAlone(t *testing.T) {
	t.Parallel()
	p := containers(t)
	logs := &output{}
	begin(t, logs, p.without("--socket")...)
	if got := receive(t, call(t, p.dir+"/sockets/ledger/api.sock").follow(t)); !slices.Equal(got, []string{"/ledger"}) {
		t.Errorf("the socket gives %v", got)
	}
	if _, err := os.Lstat(p.dir + "/api.sock"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the plain socket: %v", err)
	}
}

// ATTACKS 32: nothing is served in part.
func TestASocketThatCannotBeOpenedKeepsTheAuthorityFromStarting(t *testing.T) {
	t.Parallel()
	p := containers(t)
	if err := os.MkdirAll(p.dir+"/sockets", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(p.dir+"/sockets/ledger", p.dir+"/sockets/payments"); err != nil {
		t.Fatal(err)
	}
	err := run(t.Context(), p.args, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "--sockets: the registration file asks for socket:payments") {
		t.Errorf("%v", err)
	}
	for _, socket := range []string{"/api.sock", "/sockets/ledger/api.sock"} {
		if _, err := os.Lstat(p.dir + socket); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", socket, err)
		}
	}
}

// Later it is not fatal, and does not take readiness from all the others: whoever asks how the authority is reads of it.
func TestASocketThatCannotBeOpenedLaterIsReadOfWhereReadinessIs(t *testing.T) {
	t.Parallel()
	p := containers(t)
	logs := &output{}
	begin(t, logs, p.args...)
	wantReadyz(t, logs, `"sockets":"ok (3 served)"`)
	if err := os.WriteFile(p.dir+"/sockets/accounts", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.register(t, "ledger", "payments", "burglar", "accounts")
	wantReadyz(t, logs, `"sockets":"ok (3 served; cannot be opened: socket:accounts, see the log)"`)
}

// wantReadyz waits until an authority that is ready says a text.
func wantReadyz(t *testing.T, logs *output, want string) {
	t.Helper()
	var got string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		_, address, _ := strings.Cut(logs.String(), "address=") // port 0 lets the kernel choose
		address, _, _ = strings.Cut(address, "\n")
		if got = readyz(t, address); strings.HasPrefix(got, "200 OK") && strings.Contains(got, want) {
			return
		}
		time.Sleep(5 * time.Millisecond) //nolint:forbidigo // the poll of a condition with a bound
	}
	t.Errorf("/readyz says %s, want %s", got, want)
}

// readyz asks whether an authority is ready, and returns its answer, or why there is none.
func readyz(t *testing.T, address string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/readyz", http.NoBody)
	if err != nil {
		return err.Error()
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return err.Error()
	}
	body, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return err.Error()
	}
	return response.Status + " " + string(body)
}

func TestWhatMatchesNobodyForWantOfAFlagIsSaid(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		names []string
		flag  string
		want  string
	}{
		"entries that ask for sockets, and nowhere to serve them": {[]string{"ledger"}, "", "--sockets does not say where to serve them"},
		"a place for sockets that nobody asks for":                {nil, "--sockets", "no registration entry asks for a socket with a name"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			p.register(t, test.names...)
			if test.flag != "" {
				p.args = append(p.args, test.flag+"="+p.dir+"/sockets")
			}
			logs := &output{}
			begin(t, logs, p.args...)
			if _, err := fetch(t, p); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(logs.String(), test.want) {
				t.Errorf("the log is\n%s\nand does not say %q", logs, test.want)
			}
		})
	}
}
