// Command probe is a container that should reach nothing. It dials each HOST:PORT and says how far it got, one line each:
//
//	ledger:8443 no name
//	172.20.0.3:8443 no connection
//	ledger:8443 refused spiffe://bank.test/ledger
//	ledger:8443 let in spiffe://bank.test/ledger
//
// With -touch FILE it tries to make a file instead, and says why it cannot.
//
// It has no identity. With a connection it begins a handshake, takes whoever answers, and reads what a server says first to whom it has
// let in.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// patience is how long anything may take. Nothing here is further away than the next container.
const patience = 2 * time.Second

func main() {
	if len(os.Args) == 3 && os.Args[1] == "-touch" {
		say(touch(os.Args[2]))
		return
	}
	lines := make([]string, len(os.Args)-1)
	var probing sync.WaitGroup
	for i, address := range os.Args[1:] {
		probing.Go(func() { lines[i] = address + " " + probe(address) })
	}
	probing.Wait()
	for _, line := range lines {
		say(line)
	}
}

func say(line string) {
	if _, err := fmt.Fprintln(os.Stdout, line); err != nil {
		os.Exit(1) // what is not said was not found out
	}
}

func probe(address string) string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err.Error()
	}
	if _, err := net.DefaultResolver.LookupHost(ctx, host); err != nil {
		return "no name"
	}
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return "no connection"
	}
	defer raw.Close()
	if err := raw.SetDeadline(time.Now().Add(patience)); err != nil {
		return err.Error()
	}
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13}) // it is to meet anybody
	if err := conn.HandshakeContext(ctx); err != nil {
		return "no handshake: " + err.Error()
	}
	peer := "nobody"
	if uris := conn.ConnectionState().PeerCertificates[0].URIs; len(uris) > 0 {
		peer = uris[0].String()
	}
	// In TLS 1.3 the client is done before the server has looked at its certificate (RFC 8446 §2). Who is let in is sent SETTINGS (RFC 9113 §3.4).
	if _, err := io.ReadFull(conn, make([]byte, 9)); err != nil {
		return "refused " + peer
	}
	return "let in " + peer
}

func touch(name string) string {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("made %s; closed: %v", name, f.Close())
}
