package transport_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/test/bufconn"

	"github.com/countersign-mesh/countersign/pkg/transport"
)

// tape is a connection on which everything has arrived that will. It hands out as much as it likes; and times out once for each deadline that has passed.
type tape struct {
	random *rand.Rand
	left   []byte
	late   bool
}

func (s *tape) Read(p []byte) (int, error) {
	if s.late {
		return 0, os.ErrDeadlineExceeded
	}
	if len(s.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), drawPiece(s.random, len(s.left)))], s.left)
	s.left = s.left[n:]
	return n, nil
}

func (s *tape) SetReadDeadline(t time.Time) error {
	s.late = !t.IsZero() && t.Before(time.Now())
	return nil
}

// Whatever way reads are split, and however often a client is to leave, gRPC reads the frames that have arrived and one GOAWAY between two of them: the
// first at which a frame ends after it was asked for, and is not to be continued. At the end of what arrives there may be none.
func TestALeavingClientReadsAGoAwayBetweenFrames(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 0))
		frames := drawFrames(random)
		stream := slices.Concat(frames...)
		r := transport.NewFrameReader(&tape{random: random, left: stream})
		asked := -1 // how much had been read when GOAWAY was asked for first
		var got []byte
		for {
			if random.IntN(4) == 0 {
				if asked < 0 {
					asked = len(got)
				}
				if err := r.GoAway(); err != nil {
					t.Fatal(err)
				}
			}
			p := make([]byte, 1+random.IntN(1<<15))
			n, err := r.Read(p)
			got = append(got, p[:n]...)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		want := frames
		if asked >= 0 {
			want = slices.Insert(slices.Clone(frames), framesBefore(frames, asked), goAwayFrame)
		}
		if !bytes.Equal(slices.Concat(want...), got) {
			t.Fatalf("seed %d: gRPC reads %s; want %s, GOAWAY asked for after %d bytes", seed, outline(got), outline(want...), asked)
		}
	}
}

// The server's own GOAWAY may name a lower stream, and none with a higher one may follow it (RFC 9113 §6.8).
func TestNoGoAwayIsReadAfterTheServersOwn(t *testing.T) {
	t.Parallel()
	stream := slices.Concat(frame(http2.FrameSettings, 6), frame(http2.FrameGoAway, 8), frame(http2.FramePing, 8))
	for after := len(frame(http2.FrameSettings, 6)) + 1; after <= len(stream); after++ { // from the first byte of the server's GOAWAY on
		r := transport.NewFrameReader(&tape{random: rand.New(rand.NewPCG(1, 1)), left: stream})
		got := make([]byte, after)
		if _, err := io.ReadFull(r, got); err != nil {
			t.Fatal(err)
		}
		if err := r.GoAway(); err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(r)
		if got = slices.Concat(got, rest); err != nil || !bytes.Equal(got, stream) {
			t.Errorf("asked for after %d bytes: gRPC reads %x, %v", after, got, err)
		}
	}
}

// gRPC sets a deadline when it closes a connection, and relies on it. A client that is woken in order to leave keeps it; and one that leaves is not taken for one
// whose deadline has passed.
func TestADeadlineOfGRPCsIsKept(t *testing.T) {
	t.Parallel()
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	r := transport.NewFrameReader(here)
	if err := errors.Join(r.GoAway(), r.SetReadDeadline(time.Now().Add(50*time.Millisecond))); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	n, err := r.Read(make([]byte, 100))
	if took := time.Since(began); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || took < 40*time.Millisecond {
		t.Errorf("Read = %d, %v after %v", n, err, took)
	}
	if err := errors.Join(r.GoAway(), r.SetReadDeadline(time.Time{})); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = there.Write(frame(http2.FrameSettings, 0)) }()
	got := make([]byte, 9+len(goAwayFrame))
	if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got[9:], goAwayFrame) {
		t.Errorf("gRPC reads %x, %v", got, err)
	}
}

// dead is a connection whose peer has answered nothing for so long that the kernel gave it up. What is read after that is its end.
type dead struct {
	net.Conn
	told bool
}

func (d *dead) Read([]byte) (int, error) {
	if d.told {
		return 0, io.EOF
	}
	d.told = true
	return 0, &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ETIMEDOUT)}
}

func (d *dead) SetReadDeadline(time.Time) error { return nil }

// ETIMEDOUT is a timeout to Go as a deadline is one. It is not taken for one that has passed, on which the reader would go on: it is the end, and it keeps its name.
func TestADeadPeerIsNotTakenForADeadline(t *testing.T) {
	t.Parallel()
	r := transport.NewFrameReader(&dead{})
	if err := r.GoAway(); err != nil {
		t.Fatal(err)
	}
	for name, end := range map[string]io.Reader{"gRPC": r, "crypto/tls": transport.Patient(&dead{})} {
		if n, err := end.Read(make([]byte, 100)); n > 0 || !errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s reads %d, %v; want %v", name, n, err, syscall.ETIMEDOUT)
		}
	}
}

// A deadline that has passed reaches crypto/tls as an error that it goes on after, whatever the connection calls it.
func TestADeadlineIsKnownWhateverTheConnection(t *testing.T) {
	t.Parallel()
	inside := bufconn.Listen(1 << 10)
	defer inside.Close()
	outside := listen(t)
	defer outside.Close()
	pipe, other := net.Pipe()
	defer other.Close()
	for name, reach := range map[string]func() (net.Conn, error){
		"bufconn": func() (net.Conn, error) {
			accepted := make(chan error, 1)
			go func() { _, err := inside.Accept(); accepted <- err }()
			raw, err := inside.Dial()
			return raw, errors.Join(err, <-accepted)
		},
		"TCP":    func() (net.Conn, error) { return net.Dial("tcp", outside.Addr().String()) },
		"a pipe": func() (net.Conn, error) { return pipe, nil },
	} {
		raw, err := reach()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Cleanup(func() { _ = raw.Close() })
		if err := raw.SetReadDeadline(time.Unix(1, 0)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, err = transport.Patient(raw).Read(make([]byte, 1))
		if temporary, ok := errors.AsType[interface {
			error
			Temporary() bool
		}](err); !errors.Is(err, os.ErrDeadlineExceeded) || !ok || !temporary.Temporary() {
			t.Errorf("%s: crypto/tls reads %v", name, err)
		}
	}
}
