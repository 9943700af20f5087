package bank

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Frames is a connection on which requests are written frame by frame, as no client of gRPC writes them.
type Frames struct {
	framer *http2.Framer
	next   uint32
}

// Frames connects an identity to a server of the mesh. The connection is closed with the test.
func (m *Mesh) Frames(t testing.TB, i *Identity, server string) *Frames {
	t.Helper()
	return NewFrames(t, i.TLS(server), m.Program(t, server).Address)
}

// NewFrames connects to a server at an address. The connection is closed with the test.
func NewFrames(t testing.TB, config *tls.Config, address string) *Frames {
	t.Helper()
	config.NextProtos = []string{"h2"}
	conn, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // the server may have closed it before
	f, err := newFrames(conn)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func newFrames(conn net.Conn) (*Frames, error) {
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		return nil, err
	}
	f := &Frames{framer: http2.NewFramer(conn, conn), next: 1}
	f.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	return f, f.framer.WriteSettings()
}

// Headers returns the headers of a well-formed request with a path.
func Headers(path string) []hpack.HeaderField {
	return []hpack.HeaderField{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "https"},
		{Name: ":path", Value: path},
		{Name: ":authority", Value: "bank"},
		{Name: "content-type", Value: "application/grpc"},
		{Name: "te", Value: "trailers"},
	}
}

// Ask sends a request with these headers and an empty message. It returns the status that the server answers, nil when that is OK, and another error
// when the server has reset the stream or closed the connection.
func (f *Frames) Ask(headers []hpack.HeaderField) error {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range headers {
		if err := encoder.WriteField(field); err != nil {
			return err
		}
	}
	id := f.next
	f.next += 2
	if err := f.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true}); err != nil {
		return err
	}
	if err := f.framer.WriteData(id, true, make([]byte, 5)); err != nil { // the prefix of a message that has no bytes
		return err
	}
	fields := make(map[string]string)
	for {
		frame, err := f.framer.ReadFrame()
		if err != nil {
			return err
		}
		switch frame := frame.(type) {
		case *http2.RSTStreamFrame:
			if frame.StreamID == id {
				return http2.StreamError{StreamID: id, Code: frame.ErrCode}
			}
		case *http2.MetaHeadersFrame:
			if frame.StreamID != id {
				continue
			}
			for _, field := range frame.Fields {
				fields[field.Name] = field.Value
			}
			if frame.StreamEnded() {
				return statusIn(fields)
			}
		}
	}
}

// statusIn returns the status in the headers and trailers of an answer.
func statusIn(fields map[string]string) error {
	code, err := strconv.ParseInt(fields["grpc-status"], 10, 32)
	if err != nil {
		return fmt.Errorf("grpc-status: %w", err)
	}
	details, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(fields["grpc-status-details-bin"], "="))
	if err != nil {
		return fmt.Errorf("grpc-status-details-bin: %w", err)
	}
	st := &spb.Status{}
	if err := proto.Unmarshal(details, st); err != nil {
		return fmt.Errorf("grpc-status-details-bin: %w", err)
	}
	st.Code, st.Message = int32(code), fields["grpc-message"]
	return status.ErrorProto(st)
}
