package bank

import (
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// Replicate gives a service a second process, on the same database and with the same identity, and returns its name, such as
// "payments-2", for the other methods. Whoever calls the service finds both behind one name in the DNS, as behind a headless service
// of Kubernetes, and spreads its calls over them. It is to be called before any of them starts. It skips the test where the machine has
// no second loopback address, unless the environment variable CI is set: there it fails.
func (a *Apart) Replicate(t testing.TB, service string) string {
	t.Helper()
	const host = "127.0.0.2"
	_, port, err := net.SplitHostPort(a.addresses[service])
	if err != nil {
		t.Fatal(err)
	}
	second := net.JoinHostPort(host, port)
	l, err := net.Listen("tcp", second)
	switch {
	case errors.Is(err, syscall.EADDRNOTAVAIL) && os.Getenv("CI") == "":
		t.Skip("SKIP: there is no second loopback address here:", err)
	case err != nil:
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	name := service + "-2"
	a.addresses[name], a.ops[name] = second, FreeAddress(t)
	domain := service + ".bank.test"
	a.targets[service] = "dns://" + serveNames(t, domain, [4]byte{127, 0, 0, 1}, [4]byte{127, 0, 0, 2}) + "/" + net.JoinHostPort(domain, port)
	return name
}

// serviceOf returns which service a process is one of.
func serviceOf(name string) string {
	if name == SPIREServer || name == SPIREAgent {
		return name
	}
	service, _, _ := strings.Cut(name, "-")
	return service
}

// serveNames serves the DNS with one name in it until the test ends, and returns where.
func serveNames(t testing.TB, domain string, addresses ...[4]byte) string {
	t.Helper()
	conn, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		buf := make([]byte, 512) // RFC 1035 §4.2.1
		for {
			n, peer, err := conn.ReadFrom(buf)
			if err != nil {
				return // the test has ended
			}
			if answer, ok := resolve(buf[:n], domain+".", addresses); ok {
				_, _ = conn.WriteTo(answer, peer) // who gets no answer asks again
			}
		}
	}()
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		<-served
	})
	return conn.LocalAddr().String()
}

// resolve answers one query. It is not ok when that is no query.
func resolve(query []byte, domain string, addresses [][4]byte) (answer []byte, ok bool) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		return nil, false
	}
	asked := m.Questions[0]
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionDesired: m.RecursionDesired},
		Questions: m.Questions,
	}
	if !strings.EqualFold(asked.Name.String(), domain) {
		reply.RCode = dnsmessage.RCodeNameError
	} else if asked.Type == dnsmessage.TypeA {
		for _, a := range addresses {
			reply.Answers = append(reply.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: asked.Name, Type: asked.Type, Class: asked.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: a},
			})
		}
	}
	answer, err := reply.Pack()
	return answer, err == nil
}
