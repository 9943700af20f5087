package mesh_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/countersign-mesh/countersign/pkg/mesh"
)

// ATTACKS 52: what one peer can take of a server is limited. Clients that keep to what the server says of its limits are gRPC's, those that do not
// write their frames themselves.
func TestAPeerCanTakeNoMoreThanTheLimits(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		opts []mesh.ServerOption
		take func(t *testing.T, w *world, c *caller)
	}{
		{"ATTACKS 52: of 1,001 streams on a connection one waits", nil, tooManyStreams},
		{"ATTACKS 52: a stream too many is refused to a client that does not wait", nil, tooManyStreamsByForce},
		{"ATTACKS 52: headers of 17 KiB are refused", nil, tooLongHeaders},
		{"ATTACKS 52: a message of 5 MiB is refused", nil, tooLongMessage},
		{"ATTACKS 52: a connection ends at its age, an open stream a while later", []mesh.ServerOption{mesh.WithConnectionAge(time.Second)}, tooOld},
		{"ATTACKS 52: too many pings end the connection", nil, tooManyPings},
		{"ATTACKS 52: a peer that shows who it is and says nothing more is put out", nil, tooSilent},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, doomedAndGood, test.opts...)
			c := w.caller(t, w.ca.SVID(t, "/good"))
			if err := say(t.Context(), c.conn); err != nil { // the client knows the server's limits from now on
				t.Fatal(err)
			}
			test.take(t, w, c)
		})
	}
}

const mostStreams = 1000

func tooManyStreams(t *testing.T, _ *world, c *caller) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first, end := context.WithCancel(ctx)
	defer end()
	if _, err := talk(first, c.conn); err != nil {
		t.Fatal(err)
	}
	for range mostStreams - 1 {
		if _, err := talk(ctx, c.conn); err != nil {
			t.Fatal(err)
		}
	}
	patient, giveUp := context.WithTimeout(ctx, 300*time.Millisecond)
	defer giveUp()
	if _, err := talk(patient, c.conn); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("one stream more: %v, want it to wait", err)
	}
	end()
	waiting, giveUp := context.WithTimeout(ctx, 15*time.Second)
	defer giveUp()
	if _, err := talk(waiting, c.conn); err != nil {
		t.Errorf("one stream more when one has ended: %v", err)
	}
}

func tooManyStreamsByForce(t *testing.T, w *world, c *caller) {
	t.Helper()
	h := w.wire(t, c)
	for range mostStreams {
		h.request(t)
	}
	last := h.request(t)
	refused := h.until(t, func(f http2.Frame) bool {
		reset, ok := f.(*http2.RSTStreamFrame)
		return ok && reset.StreamID == last && reset.ErrCode == http2.ErrCodeRefusedStream
	})
	if refused != nil {
		t.Errorf("one stream more is not refused: %v", refused)
	}
}

func tooLongHeaders(t *testing.T, w *world, c *caller) {
	t.Helper()
	ctx := func(size int) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "x-long", strings.Repeat("x", size))
	}
	if err := say(ctx(15<<10), c.conn); err != nil {
		t.Errorf("15 KiB: %v", err)
	}
	if err := say(ctx(17<<10), c.conn); status.Code(err) != codes.Internal {
		t.Errorf("17 KiB, as the client knows: %v", err)
	}
	h := w.wire(t, c)
	id := h.request(t, slices.Repeat([]hpack.HeaderField{{Name: "x-long", Value: strings.Repeat("x", 1<<10)}}, 17)...)
	refused := h.until(t, func(f http2.Frame) bool {
		reset, ok := f.(*http2.RSTStreamFrame)
		return ok && reset.StreamID == id && reset.ErrCode == http2.ErrCodeFrameSize
	})
	if refused != nil {
		t.Errorf("17 KiB, sent all the same, is not refused: %v", refused)
	}
}

func tooLongMessage(t *testing.T, _ *world, c *caller) {
	t.Helper()
	long := func(size int) error {
		answer := new(wrapperspb.BytesValue)
		return c.conn.Invoke(t.Context(), unaryMethod, &wrapperspb.BytesValue{Value: make([]byte, size)}, answer, grpc.MaxCallRecvMsgSize(8<<20))
	}
	if err := long(3 << 20); err != nil {
		t.Errorf("3 MiB: %v", err)
	}
	if err := long(5 << 20); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("5 MiB: %v", err)
	}
}

func tooOld(t *testing.T, w *world, c *caller) {
	t.Helper()
	h := w.wire(t, c)
	h.request(t) // and it stays open
	asked := h.until(t, func(f http2.Frame) bool {
		goAway, ok := f.(*http2.GoAwayFrame)
		return ok && goAway.ErrCode == http2.ErrCodeNo && string(goAway.DebugData()) == "max_age"
	})
	if asked != nil {
		t.Fatalf("the client is not asked to go: %v", asked)
	}
	if err := h.untilClosed(t); err != nil {
		t.Errorf("the stream goes on: %v", err)
	}
}

func tooManyPings(t *testing.T, w *world, c *caller) {
	t.Helper()
	h := w.wire(t, c)
	for range 10 {
		if err := h.framer.WritePing(false, [8]byte{}); err != nil {
			break // it has been closed
		}
	}
	told := h.until(t, func(f http2.Frame) bool {
		goAway, ok := f.(*http2.GoAwayFrame)
		return ok && goAway.ErrCode == http2.ErrCodeEnhanceYourCalm
	})
	if told != nil {
		t.Errorf("the client is not told to calm down: %v", told)
	} else if err := h.untilClosed(t); err != nil {
		t.Errorf("the connection goes on: %v", err)
	}
}

func tooSilent(t *testing.T, w *world, c *caller) {
	t.Helper()
	conn := w.connect(t, c)
	if err := conn.SetReadDeadline(time.Now().Add(25 * time.Second)); err != nil {
		t.Fatal(err)
	}
	h := &wire{conn: conn, framer: http2.NewFramer(conn, conn)} // and no preface: that is what the server waits for
	if err := h.untilClosed(t); err != nil {
		t.Errorf("the connection stays: %v", err)
	}
}

// connect makes a connection with the caller's identity, for another client than gRPC's.
func (w *world) connect(t *testing.T, c *caller) net.Conn {
	t.Helper()
	raw, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	conn, _, err := c.conns.Client(spiffeid.RequireFromString("spiffe://bank.test/ledger")).ClientHandshake(t.Context(), "ledger:1", raw)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // the server may have closed it before
	return conn
}

// wire is a client that writes its frames itself.
type wire struct {
	conn   net.Conn
	framer *http2.Framer
	next   uint32
}

func (w *world) wire(t *testing.T, c *caller) *wire {
	t.Helper()
	return newWire(t, w.connect(t, c))
}

func newWire(t *testing.T, conn net.Conn) *wire {
	t.Helper()
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	h := &wire{conn: conn, framer: http2.NewFramer(conn, conn), next: 1}
	if err := h.framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return h
}

// request opens a stream both ways and returns its ID.
func (h *wire) request(t *testing.T, more ...hpack.HeaderField) uint32 {
	t.Helper()
	return h.open(t, append(headersOf(bothMethod), more...))
}

// headersOf returns the headers of a well-formed request for a method.
func headersOf(method string) []hpack.HeaderField {
	return []hpack.HeaderField{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "https"},
		{Name: ":path", Value: method},
		{Name: ":authority", Value: "ledger"},
		{Name: "content-type", Value: "application/grpc"},
		{Name: "te", Value: "trailers"},
	}
}

// open opens a stream with these headers and returns its ID. The headers are in frames of 16 KiB, the most that there may be in one (RFC 9113 §4.2).
func (h *wire) open(t *testing.T, headers []hpack.HeaderField) uint32 {
	t.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range headers {
		if err := encoder.WriteField(field); err != nil {
			t.Fatal(err)
		}
	}
	id := h.next
	h.next += 2
	const most = 16 << 10
	first := block.Next(most)
	err := h.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: first, EndHeaders: block.Len() == 0})
	for err == nil && block.Len() > 0 {
		rest := block.Next(most)
		err = h.framer.WriteContinuation(id, block.Len() == 0, rest)
	}
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// until reads frames until one is what is wanted. Its error is why there is none.
func (h *wire) until(t *testing.T, wanted func(http2.Frame) bool) error {
	t.Helper()
	if err := h.conn.SetReadDeadline(time.Now().Add(15 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := h.framer.ReadFrame()
		if err != nil {
			return err
		}
		if wanted(frame) {
			return nil
		}
	}
}

// untilClosed reads until the server closes the connection. It fails when the server does not.
func (h *wire) untilClosed(t *testing.T) error {
	t.Helper()
	for {
		_, err := h.framer.ReadFrame()
		if network, ok := errors.AsType[net.Error](err); ok && network.Timeout() {
			return err
		}
		if err != nil {
			return nil //nolint:nilerr // that is what is waited for
		}
	}
}
