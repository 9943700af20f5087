package transport_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/countersign-mesh/countersign/pkg/transport"
)

// goAwayFrame is the GOAWAY that is put between the frames of others.
var goAwayFrame = func() []byte {
	var buf bytes.Buffer
	if err := http2.NewFramer(&buf, nil).WriteGoAway(1<<31-1, http2.ErrCodeNo, []byte("identity_is_renewed")); err != nil {
		panic(err)
	}
	return buf.Bytes()
}()

// frame returns a frame with a payload of n bytes that could be frames themselves.
func frame(kind http2.FrameType, n int) []byte {
	f := binary.BigEndian.AppendUint32(nil, uint32(n)<<8|uint32(kind))
	f = append(f, 0, 0, 0, 0, 1) // no flags, stream 1
	for len(f) < 9+n {
		f = append(f, goAwayFrame...)
	}
	return f[:9+n]
}

// drawSize returns the length of a payload: of none, of small ones, and of the largest that there can be by default.
func drawSize(random *rand.Rand) int {
	return []int{0, random.IntN(9), random.IntN(300), 1 << 14}[random.IntN(4)]
}

// drawBlock returns a block of headers: a HEADERS or a PUSH_PROMISE and its CONTINUATIONs, the last of them with END_HEADERS. The first
// frame may have flags of its own, which say nothing of that.
func drawBlock(random *rand.Rand) []byte {
	f := frame([]http2.FrameType{http2.FrameHeaders, http2.FramePushPromise}[random.IntN(2)], drawSize(random))
	f[4] = byte(http2.FlagHeadersEndStream|http2.FlagHeadersPriority) * byte(random.IntN(2))
	block, last := f, 0
	for range random.IntN(4) {
		last = len(block)
		block = append(block, frame(http2.FrameContinuation, drawSize(random))...)
	}
	block[last+4] |= byte(http2.FlagHeadersEndHeaders)
	return block
}

// drawFrames returns SETTINGS and some of what comes after it, each a frame or a block of headers, whose frames nothing may part (RFC 9113 §4.3).
func drawFrames(random *rand.Rand) [][]byte {
	frames := [][]byte{frame(http2.FrameSettings, 6*random.IntN(5))}
	for range random.IntN(12) {
		if random.IntN(3) == 0 {
			frames = append(frames, drawBlock(random))
			continue
		}
		kinds := []http2.FrameType{http2.FrameData, http2.FrameRSTStream, http2.FramePing, http2.FrameWindowUpdate}
		f := frame(kinds[random.IntN(len(kinds))], drawSize(random))
		f[4] = byte(random.IntN(256)) // what END_HEADERS is elsewhere says nothing here
		frames = append(frames, f)
	}
	return frames
}

// drawPiece returns the length of the next write out of n bytes.
func drawPiece(random *rand.Rand, n int) int {
	return min(n, []int{1, 1 + random.IntN(9), 9, 1 + random.IntN(100), 1 + random.IntN(1<<14), 32 << 10}[random.IntN(6)])
}

// split returns the frames in what was written, and what is left over.
func split(p []byte) (frames [][]byte, rest []byte) {
	for len(p) >= 9 {
		n := 9 + (int(p[0])<<16 | int(p[1])<<8 | int(p[2]))
		if len(p) < n {
			break
		}
		frames, p = append(frames, p[:n]), p[n:]
	}
	return frames, p
}

// outline says which frames are in what was written, for a test that fails.
func outline(p ...[]byte) string {
	frames, rest := split(slices.Concat(p...))
	kinds := make([]http2.FrameType, 0, len(frames))
	for _, f := range frames {
		kinds = append(kinds, http2.FrameType(f[3]))
	}
	return fmt.Sprintf("%v and %d bytes", kinds, len(rest))
}

// Whatever way writes are split, and however often the peer is asked to go away, it reads the frames that were written and one GOAWAY between
// two of them: the first at which a frame ends after it was asked for, and is not to be continued.
func TestGoAwayIsBetweenFrames(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 0))
		frames := drawFrames(random)
		stream := slices.Concat(frames...)
		var got bytes.Buffer
		w := transport.NewFrameWriter(&got)
		asked := -1 // how much had been written when GOAWAY was asked for first
		ask := func() {
			if random.IntN(4) > 0 {
				return
			}
			if asked < 0 {
				asked = got.Len()
			}
			if err := w.GoAway(); err != nil {
				t.Fatal(err)
			}
		}
		for rest := stream; len(rest) > 0; {
			ask()
			n := drawPiece(random, len(rest))
			if wrote, err := w.Write(rest[:n]); wrote != n || err != nil {
				t.Fatalf("seed %d: Write = %d, %v; want %d", seed, wrote, err, n)
			}
			rest = rest[n:]
		}
		ask()

		want := frames
		if asked >= 0 {
			want = slices.Insert(slices.Clone(frames), framesBefore(frames, asked), goAwayFrame)
		}
		if !bytes.Equal(slices.Concat(want...), got.Bytes()) {
			t.Fatalf("seed %d: the peer reads %s; want %s, GOAWAY asked for after %d bytes", seed, outline(got.Bytes()), outline(want...), asked)
		}
	}
}

// framesBefore is how many frames or blocks end, at the latest, where the one ends that is being written after n bytes; the first is complete then.
func framesBefore(frames [][]byte, n int) int {
	for i, end := 0, 0; i < len(frames); i++ {
		if end += len(frames[i]); end >= n && end > 0 {
			return i + 1
		}
	}
	return len(frames)
}

// gRPC says GOAWAY itself, at the end of a server or of a connection's greatest age, and then names the last stream that it will serve. One after
// that which names a higher stream is an error of the connection (RFC 9113 §6.8), and calls in flight would end with it.
func TestNoGoAwayAfterGRPCsOwn(t *testing.T) {
	t.Parallel()
	settings, own := frame(http2.FrameSettings, 6), frame(http2.FrameGoAway, 8)
	for _, c := range []struct {
		name  string
		write func(w *transport.FrameWriter) error
	}{
		{"asked for after it", func(w *transport.FrameWriter) error {
			_, err := w.Write(own)
			return errors.Join(err, w.GoAway())
		}},
		{"asked for while it is written", func(w *transport.FrameWriter) error {
			_, err := w.Write(own[:5])
			err = errors.Join(err, w.GoAway())
			_, last := w.Write(own[5:])
			return errors.Join(err, last)
		}},
	} {
		var got bytes.Buffer
		w := transport.NewFrameWriter(&got)
		if _, err := w.Write(settings); err != nil {
			t.Fatal(err)
		}
		if err := c.write(w); err != nil {
			t.Fatal(err)
		}
		if want := slices.Concat(settings, own); !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s: the peer reads %x, want %x", c.name, got.Bytes(), want)
		}
	}
}

// fragile fails after so many bytes, of which it takes as many as it can.
type fragile struct {
	bytes.Buffer
	left int
}

var errBroken = errors.New("broken")

func (f *fragile) Write(p []byte) (int, error) {
	n := min(f.left, len(p))
	f.left -= n
	_, _ = f.Buffer.Write(p[:n])
	if n < len(p) {
		return n, errBroken
	}
	return n, nil
}

// A write that fails is reported with what was written of it, and no GOAWAY is put into the frame that it broke off.
func TestGoAwayAndABrokenConnection(t *testing.T) {
	t.Parallel()
	stream := slices.Concat(frame(http2.FrameSettings, 6), frame(http2.FrameData, 20), frame(http2.FrameData, 0), frame(http2.FrameData, 7))
	for room := range len(stream) {
		to := &fragile{left: room}
		w := transport.NewFrameWriter(to)
		n, err := w.Write(stream)
		if n != room || !errors.Is(err, errBroken) {
			t.Fatalf("room for %d: Write = %d, %v", room, n, err)
		}
		err = w.GoAway()
		if !bytes.Equal(to.Bytes(), stream[:room]) {
			t.Errorf("room for %d: the peer reads %x", room, to.Bytes())
		}
		frames, rest := split(stream[:room])
		if atEnd := len(frames) > 0 && len(rest) == 0; errors.Is(err, errBroken) != atEnd {
			t.Errorf("room for %d: GoAway = %v; want an error: %v", room, err, atEnd)
		}
	}
	// A GOAWAY that fails after a frame fails the write that it came with.
	to := &fragile{left: len(stream) + 5}
	w := transport.NewFrameWriter(to)
	if _, err := w.Write(stream[:12]); err != nil {
		t.Fatal(err)
	}
	if err := w.GoAway(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(stream[12:]); !errors.Is(err, errBroken) {
		t.Errorf("Write = %v", err)
	}
}

// A peer that reads nothing holds up its own connection and nothing else: not the others, and not the end of the registry.
func TestAPeerThatReadsNothingHoldsUpNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stuck := newLink(t, w.inbound.Server(), w.outbound.Client(w.id("/ledger")))
	writing := make(chan error, 1)
	go func() {
		_, err := stuck.server.Write(frame(http2.FrameData, 1<<22)) // more than the sockets hold
		writing <- err
	}()
	good := newLink(t, w.inbound.Server(), w.outbound.Client(w.id("/ledger")))
	if _, err := good.server.Write(frame(http2.FrameSettings, 0)); err != nil {
		t.Fatal(err)
	}
	w.inbound.GoAway()
	read := make([]byte, 9+len(goAwayFrame))
	_ = good.client.SetReadDeadline(time.Now().Add(15 * time.Second))
	if _, err := io.ReadFull(good.client, read); err != nil || !bytes.Equal(read[9:], goAwayFrame) {
		t.Errorf("the good peer reads %x, %v", read, err)
	}
	if got := len(w.inbound.Conns()); got != 2 {
		t.Errorf("%d connections", got)
	}
	eventually(t, "the first sweep", func() bool { return w.inbound.Sweeps() > 0 })
	swept := w.inbound.Sweeps()
	w.server.trust(w.ca.Bundle())
	eventually(t, "the connections are verified anew", func() bool { return w.inbound.Sweeps() > swept })
	select {
	case err := <-writing:
		t.Errorf("the write did not block, which this test is about: %v", err)
	default:
	}
	if err := w.inbound.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-writing; err == nil {
		t.Error("the write got through")
	}
}
