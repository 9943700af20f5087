package transport_test

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/pkg/transport"
)

// saboteur makes malformed handshakes with a server.
type saboteur struct {
	addr   string
	config *tls.Config // a client's that is in order
	hello  []byte      // a ClientHello, as recorded
	random *rand.Rand
}

// recordHello returns the first message of a client.
func recordHello(t *testing.T, config *tls.Config) []byte {
	t.Helper()
	near, far := net.Pipe()
	go func() {
		_ = tls.Client(near, config).HandshakeContext(context.Background())
	}()
	defer near.Close()
	defer far.Close()
	header := make([]byte, 5)
	if _, err := io.ReadFull(far, header); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(header[3:]))
	if _, err := io.ReadFull(far, body); err != nil {
		t.Fatal(err)
	}
	return slices.Concat(header, body)
}

// flipped returns p with some bits of it changed, not before from.
func (s *saboteur) flipped(p []byte, from int) []byte {
	p = slices.Clone(p)
	for range 1 + s.random.IntN(4) {
		p[from+s.random.IntN(len(p)-from)] ^= 1 << s.random.IntN(8)
	}
	return p
}

func (s *saboteur) noise(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(s.random.Uint32())
	}
	return p
}

// say sends p and no more, and waits for the server's end.
func (s *saboteur) say(p []byte) error {
	raw, err := net.Dial("tcp", s.addr)
	if err != nil {
		return err
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = raw.Write(p)
	_ = raw.(*net.TCPConn).CloseWrite() //nolint:errcheck,forcetypeassert // it is TCP
	_, _ = io.Copy(io.Discard, raw)
	return nil
}

// handshake makes a handshake with a configuration, through a connection that spoils what it writes, and waits for the server's end.
func (s *saboteur) handshake(config *tls.Config, spoil func(n int, p []byte) []byte) error {
	raw, err := net.Dial("tcp", s.addr)
	if err != nil {
		return err
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
	conn := tls.Client(&spoiled{TCPConn: raw.(*net.TCPConn), spoil: spoil}, config) //nolint:errcheck,forcetypeassert // it is TCP
	_ = conn.HandshakeContext(context.Background())
	_, _ = io.Copy(io.Discard, raw)
	return nil
}

// spoiled is a connection that changes what is written to it. After a write that comes to nothing or is cut short it writes no more.
type spoiled struct {
	*net.TCPConn
	writes int
	spoil  func(n int, p []byte) []byte
}

func (s *spoiled) Write(p []byte) (int, error) {
	s.writes++
	sent := s.spoil(s.writes, p)
	if _, err := s.TCPConn.Write(sent); err != nil {
		return 0, err
	}
	if len(sent) < len(p) {
		_ = s.CloseWrite()
	}
	return len(p), nil
}

// sabotages are the ways in which a handshake goes wrong, each a maker of one.
func (s *saboteur) sabotages() []func() error {
	whole := func(_ int, p []byte) []byte { return p }
	second := func(change func(p []byte) []byte) func(int, []byte) []byte { // the client's second flight: certificate, proof, finish
		return func(n int, p []byte) []byte {
			if n == 1 || len(p) < 16 {
				return p
			}
			return change(p)
		}
	}
	return []func() error{
		func() error { return s.say(s.noise(1 + s.random.IntN(4096))) },
		func() error { return s.say(s.hello[:1+s.random.IntN(len(s.hello)-1)]) },
		func() error { return s.say(s.flipped(s.hello, 0)) },
		func() error { return s.say(s.flipped(s.hello, 5)) },
		func() error { return s.say(append([]byte{22, 3, 1, 0xff, 0xff}, s.noise(1<<16)...)) }, // longer than a record may be
		func() error { return s.say(append(slices.Clone(s.hello), s.noise(256)...)) },
		func() error { return s.say(nil) },
		func() error { return s.handshake(s.config, second(func(p []byte) []byte { return s.flipped(p, 5) })) },
		func() error {
			return s.handshake(s.config, second(func(p []byte) []byte { return p[:s.random.IntN(len(p))] }))
		},
		func() error { return s.handshake(s.mutant(), whole) },
		func() error { return s.handshake(s.mutant(), whole) },
	}
}

// mutant returns a client whose certificate was changed after it was signed. The handshake is in order: it has the key.
func (s *saboteur) mutant() *tls.Config {
	config := s.config.Clone()
	cert := config.Certificates[0]
	cert.Certificate = [][]byte{s.flipped(cert.Certificate[0], 0)}
	config.Certificates = nil
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	return config
}

// Thousands of handshakes that go wrong in every way, from several strangers at once, while a good client calls: no call of it fails, each
// of the others is counted under one of the fixed reasons, and nothing is left of them. It runs alone, as it measures what the process has.
//
//nolint:paralleltest // see above
func TestMalformedHandshakes(t *testing.T) {
	const strangers, each = 4, 500
	w := newWorld(t)
	w.inbound = newRegistry(t, w.server, transport.WithHandshakes(64, 3*time.Second))
	d := openDesk(t, w.inbound.Server(), true)
	conn := d.client(t, w.outbound.Client(w.id("/ledger")))
	if err := wait(t.Context(), conn, 0); err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{certificate(w.client.svid)}}
	hello := recordHello(t, config)
	goroutines, heap := runtime.NumGoroutine(), heapInUse()
	silence := silent(t, d.listener.Addr().String(), hello, 20)

	ctx, stop := context.WithCancel(t.Context())
	var calling, attacking sync.WaitGroup
	var calls int64
	var failed error
	calling.Go(func() { calls, failed = callers(ctx, conn, time.Millisecond) })
	start := time.Now()
	var made atomic.Int64
	for stranger := range uint64(strangers) {
		s := &saboteur{addr: d.listener.Addr().String(), config: config, hello: hello, random: rand.New(rand.NewPCG(stranger, 0))}
		attacking.Go(func() {
			for i := range each {
				sabotages := s.sabotages()
				if err := sabotages[i%len(sabotages)](); err != nil {
					t.Error(err)
					return
				}
				made.Add(1)
			}
		})
	}
	attacking.Wait()
	took := time.Since(start)
	silence()
	stop()
	calling.Wait()
	if failed != nil || calls == 0 {
		t.Errorf("of %d calls of the good client one failed: %v", calls, failed)
	}
	eventually(t, "every failure is counted", func() bool { return counted(t, w.inbound) == strangers*each+20 })
	eventually(t, "the goroutines are gone", func() bool { return runtime.NumGoroutine() <= goroutines })
	grown := heapInUse() - heap
	if grown > 4<<20 {
		t.Errorf("the heap has grown by %d KiB", grown>>10)
	}
	if got := w.inbound.Stats().Handshakes[transport.Inbound]; got != 1 {
		t.Errorf("%d handshakes were made, want the good client's alone", got)
	}
	t.Logf("%d malformed handshakes in %v beside %d calls; heap grown by %d KiB; failures: %v",
		made.Load(), took.Round(time.Millisecond), calls, grown>>10, reasons(w.inbound))
}

// silent opens n connections of which half say nothing, and half stop after their first message. The function it returns ends them.
func silent(t *testing.T, addr string, hello []byte, n int) func() {
	t.Helper()
	var open []net.Conn
	for i := range n {
		raw, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			if _, err := raw.Write(hello); err != nil {
				t.Fatal(err)
			}
		}
		open = append(open, raw)
	}
	return func() {
		for _, raw := range open {
			_ = raw.Close()
		}
	}
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// counted sums up the inbound failures. A reason that is not one of the fixed ones fails the test.
func counted(t *testing.T, r *transport.Registry) int {
	t.Helper()
	sum := 0
	for kind, n := range r.Stats().Failures {
		if !slices.Contains(transport.Failures(), kind.Reason) {
			t.Fatalf("failure %+v is not one of the fixed ones", kind)
		}
		if kind.Direction == transport.Inbound {
			sum += int(n)
		}
	}
	return sum
}

// reasons returns the inbound failures that there were.
func reasons(r *transport.Registry) map[string]uint64 {
	all := make(map[string]uint64)
	for kind, n := range r.Stats().Failures {
		if kind.Direction == transport.Inbound && n > 0 {
			all[kind.Reason] = n
		}
	}
	return all
}
