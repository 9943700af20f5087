package workload

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	workloadv1 "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
)

// play is the part of a workload in a process of its own.
func play(part string) error {
	part, socket, _ := strings.Cut(part, " ")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	switch part {
	case "fetch": // with go-spiffe, and say who this is
		client, err := workloadapi.New(ctx, workloadapi.WithAddr("unix://"+socket))
		if err != nil {
			return err
		}
		defer client.Close()
		svid, err := client.FetchX509SVID(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, svid.ID)
		return nil
	case "connect": // and, when told, let another program use the connection
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
		if err != nil {
			return err
		}
		file, err := conn.File()
		if err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, "connected")
		program, err := bufio.NewReader(os.Stdin).ReadString('\n')
		if err != nil {
			return err
		}
		fd, err := syscall.Dup(int(file.Fd())) // without close-on-exec
		if err != nil {
			return err
		}
		program = strings.TrimSpace(program)
		return syscall.Exec(program, []string{program}, []string{fmt.Sprintf("%s=inherit %d", childEnv, fd)})
	case "inherit": // a connection that another program made
		return useInherited(ctx, socket)
	}
	return errors.New("no such part: " + part)
}

func useInherited(ctx context.Context, number string) error {
	var fd uintptr
	if _, err := fmt.Sscan(number, &fd); err != nil {
		return err
	}
	inherited, err := net.FileConn(os.NewFile(fd, "inherited"))
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("passthrough:///inherited", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return inherited, nil }))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx = metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
	err = first(workloadv1.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(ctx, &workloadv1.X509SVIDRequest{}))
	fmt.Fprintln(os.Stdout, status.Code(err))
	return nil
}

// program returns a copy of the test binary: a workload of its own.
func program(t *testing.T, name string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if out, err := exec.Command("cp", self(t), path).CombinedOutput(); err != nil {
		t.Fatalf("copy: %v: %s", err, out)
	}
	return path
}

// run starts a program that plays a part.
func run(t *testing.T, path, part string) (stdin io.WriteCloser, stdout *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(path)
	cmd.Env = []string{childEnv + "=" + part, "GORACE=atexit_sleep_ms=0"}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait() // what it says is what matters
	})
	return stdin, bufio.NewReader(out)
}

func hear(t *testing.T, from *bufio.Reader) string {
	t.Helper()
	line, err := from.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// ATTACKS 31: the same code in two files is two workloads; nothing but the kernel's word tells them apart.
func TestEachProcessGetsTheIdentityOfItsProgram(t *testing.T) {
	t.Parallel()
	ledger, risk, stranger := program(t, "ledger"), program(t, "risk"), program(t, "stranger")
	r := start(t, config(), entry("/ledger", ledger, "")+entry("/risk", risk, ""))
	for path, want := range map[string]string{
		ledger: "spiffe://bank.test/ledger", risk: "spiffe://bank.test/risk", stranger: "failed: rpc error: code = PermissionDenied desc = no identity issued",
	} {
		_, out := run(t, path, "fetch "+r.socket)
		if got := hear(t, out); got != want {
			t.Errorf("%s is %q, want %q", filepath.Base(path), got, want)
		}
	}
}

// ATTACKS 30, 31: the connection of a program that has an identity, in the hands of one that has not.
func TestAnInheritedConnectionGivesNoIdentity(t *testing.T) {
	t.Parallel()
	ledger, evil := program(t, "ledger"), program(t, "evil")
	r := start(t, config(), entry("/ledger", ledger, ""))
	stdin, out := run(t, ledger, "connect "+r.socket)
	if said := hear(t, out); said != "connected" {
		t.Fatal(said)
	}
	fmt.Fprintln(stdin, evil)
	if got := hear(t, out); got != codes.PermissionDenied.String() {
		t.Errorf("the other program gets %s", got)
	}
}

// go-spiffe's client, all five calls.
func TestGoSpiffeUnderstandsAllFiveCalls(t *testing.T) {
	t.Parallel()
	r := start(t, config(), entry("/ledger", self(t), ", hint: a")+entry("/other", self(t), ", hint: b"))
	ctx, client := t.Context(), r.client()
	svids, err := client.FetchX509SVIDs(ctx)
	if err != nil || len(svids) != 2 {
		t.Fatalf("X.509-SVIDs: %v, %v", svids, err)
	}
	if svids[0].ID.Path() != "/ledger" || svids[0].Hint != "a" || svids[1].ID.Path() != "/other" || svids[1].Hint != "b" {
		t.Errorf("%v and %v", svids[0].ID, svids[1].ID)
	}
	bundles, err := client.FetchX509Bundles(ctx)
	if err != nil {
		t.Fatalf("X.509 bundles: %v", err)
	}
	if _, _, err := x509svid.Verify(svids[0].Certificates, bundles); err != nil {
		t.Errorf("the SVID under the bundle: %v", err)
	}
	tokens, err := client.FetchJWTSVIDs(ctx, jwtParams("audit"))
	if err != nil || len(tokens) != 2 || tokens[0].Hint != "a" {
		t.Fatalf("JWT-SVIDs: %v, %v", tokens, err)
	}
	keys, err := client.FetchJWTBundles(ctx)
	if err != nil {
		t.Fatalf("JWT bundles: %v", err)
	}
	if _, err := jwtsvid.ParseAndValidate(tokens[0].Marshal(), keys, []string{"audit"}); err != nil {
		t.Errorf("the token under the bundle: %v", err)
	}
	validated, err := client.ValidateJWTSVID(ctx, tokens[1].Marshal(), "audit")
	if err != nil || validated.ID.Path() != "/other" {
		t.Errorf("validation: %v, %v", validated, err)
	}
	if _, err := client.ValidateJWTSVID(ctx, tokens[1].Marshal(), "risk"); status.Code(err) != codes.InvalidArgument {
		t.Errorf("validation for another audience: %v", err)
	}
}

// The mesh's own source, which is stricter than go-spiffe's.
func TestTheMeshsOwnSourceTakesItsIdentityFromHere(t *testing.T) {
	t.Parallel()
	r := start(t, config(), entry("/ledger", self(t), ""))
	source, err := identity.New(t.Context(), identity.WithSocket("unix://"+r.socket),
		identity.WithLogger(slog.New(slog.NewTextHandler(r.log, nil))))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	svid, err := source.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	if peer, err := identity.NewVerifier(source).Verify(svid.Certificates); err != nil || peer.ID.Path() != "/ledger" {
		t.Errorf("%v, %v", peer, err)
	}
}

// ATTACKS 34: workloads shake hands without pause while SVIDs and authorities rotate; no handshake fails.
func TestHandshakesGoOnWhileAuthoritiesRotate(t *testing.T) {
	t.Parallel()
	c := config()
	c.AuthorityTTL, c.SVIDTTL, c.JWTTTL = 8*time.Second, 2*time.Second, 2*time.Second
	r := start(t, c, entry("/ledger", self(t), ""))
	newSource := func() *workloadapi.X509Source {
		source, err := workloadapi.NewX509Source(t.Context(), workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+r.socket)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = source.Close() })
		return source
	}
	server, client := newSource(), newSource()
	authorized := tlsconfig.AuthorizeID(spiffeid.RequireFromPath(bankTD, "/ledger"))
	serials, authorities := make(map[string]bool), make(map[string]bool)
	var handshakes atomic.Int64
	for end := time.Now().Add(14 * time.Second); time.Now().Before(end); handshakes.Add(1) {
		state, err := handshake(t, tlsconfig.MTLSServerConfig(server, server, authorized), tlsconfig.MTLSClientConfig(client, client, authorized))
		if err != nil {
			t.Fatalf("handshake %d: %v", handshakes.Load(), err)
		}
		serials[state.PeerCertificates[0].SerialNumber.String()] = true
		authorities[string(state.PeerCertificates[0].AuthorityKeyId)] = true
	}
	if len(serials) < 8 || len(authorities) < 3 {
		t.Errorf("%d SVIDs of %d authorities in %d handshakes: the test shows too little", len(serials), len(authorities), handshakes.Load())
	}
}

func handshake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		conn := tls.Server(a, server)
		err := conn.HandshakeContext(ctx)
		if err == nil {
			_, err = conn.Write([]byte{1})
		}
		done <- err
	}()
	conn := tls.Client(b, client)
	err := conn.HandshakeContext(ctx)
	if err == nil {
		_, err = conn.Read(make([]byte, 1)) // in TLS 1.3 a refused client learns it here
	}
	if err != nil {
		_ = b.Close()
	}
	return conn.ConnectionState(), errors.Join(err, <-done)
}
