package bank

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// ReadIdentity reads svid.pem, key.pem and bundle.pem.
func ReadIdentity(name, dir string) (*Identity, error) {
	certificate, err := tls.LoadX509KeyPair(filepath.Join(dir, "svid.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, err
	}
	bundle, err := os.ReadFile(filepath.Join(dir, "bundle.pem"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		return nil, fmt.Errorf("no certificate in %s/bundle.pem:\n%s", dir, bundle)
	}
	return &Identity{Name: name, Certificate: certificate, Roots: roots, Dir: dir}, nil
}

// fromFiles are ordinary credentials of crypto/tls, made anew for each handshake from the SVID that is in the files then.
type fromFiles struct {
	credentials.TransportCredentials
	name, dir, server string
}

// ClientHandshake implements credentials.TransportCredentials.
func (f *fromFiles) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	// One set of the three files, whatever is written meanwhile.
	set, err := filepath.EvalSymlinks(filepath.Join(f.dir, ".current"))
	if err != nil {
		return nil, nil, err
	}
	identity, err := ReadIdentity(f.name, set)
	if err != nil {
		return nil, nil, err
	}
	return credentials.NewTLS(identity.TLS(f.server)).ClientHandshake(ctx, authority, raw)
}

// Clone implements credentials.TransportCredentials.
func (f *fromFiles) Clone() credentials.TransportCredentials { return f }

// DialByFiles connects an actor that has nothing of the library to a service: `countersign svid write --watch` keeps its SVID in
// files, and crypto/tls and grpc-go as they come use them.
func (a *Apart) DialByFiles(t testing.TB, actor, server string) *grpc.ClientConn {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "svid")
	writer := a.Home.Start(t, []string{"SPIFFE_ENDPOINT_SOCKET=" + a.Endpoint}, program(actor), "svid", "write", "--watch", "--dir="+dir)
	Eventually(t, 20*time.Second, func() string {
		if _, err := ReadIdentity(actor, filepath.Join(dir, ".current")); err != nil {
			return err.Error() + "\n" + writer.Output()
		}
		return ""
	})
	return DialFrom(t, dir, actor, server, a.addresses[server])
}

// DialFrom connects an actor to a server at an address, with the SVID that is in the files of a directory at each handshake.
func DialFrom(t testing.TB, dir, actor, server, address string) *grpc.ClientConn {
	t.Helper()
	return Dial(t, address, &fromFiles{
		// gRPC takes the name of the server from here.
		TransportCredentials: credentials.NewTLS(&tls.Config{ServerName: server, MinVersion: tls.VersionTLS13}),
		name:                 actor, dir: dir, server: server,
	})
}

// DialByProxy connects an actor to a service through its own `countersign proxy`, which verifies the service and keeps the actor's
// SVID fresh as every program does that has the library.
func (a *Apart) DialByProxy(t testing.TB, actor, server string) *grpc.ClientConn {
	t.Helper()
	address := FreeAddress(t)
	proxy := a.Home.Start(t, []string{"SPIFFE_ENDPOINT_SOCKET=" + a.Endpoint}, program(actor),
		"proxy", a.addresses[server], "--expect=/"+server, "--listen="+address)
	Eventually(t, 20*time.Second, func() string {
		if !strings.Contains(proxy.Output(), address) {
			return "the proxy does not listen:\n" + proxy.Output()
		}
		return ""
	})
	return Dial(t, address, insecure.NewCredentials())
}

// program is the program that an actor is attested by.
func program(actor string) string {
	switch actor {
	case "operator":
		return "countersign"
	case "risk": // whoever acts as risk and is not risk
		actor = "burglar"
	}
	return filepath.Join("actors", actor)
}
