package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/userauth/userauthtest"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
)

const bankPolicy = "../../deploy/policy/bank.yaml"

// freePort returns an address that was free a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// edgeFiles writes a certificate of the edge and its key.
func edgeFiles(t *testing.T) (cert, key string) {
	t.Helper()
	own := userauthtest.NewAuthority(t).Server(t)
	der, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("server.pem", "CERTIFICATE", own.Certificate[0]), write("server.key", "PRIVATE KEY", der)
}

// eventually waits until something is so, at most for ten seconds.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	timeout, tick := time.After(10*time.Second), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-timeout:
			t.Fatalf("not within ten seconds: %s", what)
		case <-tick.C:
		}
	}
}

// A process that stops takes no more devices while calls of the mesh are in flight. Were the edge one of its workers, it would go on until they are over, and
// then drain while what it needs ends.
func TestTheEdgeDrainsWithTheServer(t *testing.T) {
	t.Parallel()
	m := meshtest.Open(t, "bank.test", bankPolicy)
	cert, key := edgeFiles(t)
	listen, edge, ops := freePort(t), freePort(t), freePort(t)
	ctx, stop := context.WithCancel(context.Background())
	args := []string{
		"--workload-api=" + m.API(t, "/login").Addr(), "--policy=" + bankPolicy, "--listen=" + listen, "--ops-listen=" + ops, "--drain-timeout=1m", "--log-level=error",
		"--dsn=" + databasetest.SQLite(t), "--audit=127.0.0.1:1", "--edge-listen=" + edge, "--edge-cert=" + cert, "--edge-key=" + key, "--issuer=" + testIssuer,
	}
	ran := make(chan error, 1)
	go func() { ran <- run(ctx, args, t.Output()) }()
	defer func() {
		stop()
		if err := <-ran; err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	eventually(t, "the process is ready", func() bool {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		response, err := client.Get("http://" + ops + "/readyz")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	gateway := m.Dial(t, "/gateway", "/login", listen)
	callCtx, end := context.WithCancel(t.Context())
	defer end()
	// A call whose request is still to come. The one after it, on the same connection, has the server know of it.
	_, err := gateway.NewStream(callCtx, &grpc.StreamDesc{ClientStreams: true}, loginv1.KeyService_GetEdgeKeys_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := loginv1.NewKeyServiceClient(gateway).GetEdgeKeys(t.Context(), &loginv1.GetEdgeKeysRequest{}); err != nil {
		t.Fatal(err)
	}
	taken := func() bool {
		conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(t.Context(), "tcp", edge) // whether there is anybody
		return err == nil && conn.Close() == nil
	}
	eventually(t, "devices are served", taken)
	stop()
	eventually(t, "devices are not taken any more", func() bool { return !taken() })
	select {
	case err := <-ran:
		ran <- err
		t.Errorf("the process ended with a call in flight: %v", err)
	default:
	}
}
