package mesh_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// answer is how a server answered a request that was written frame by frame.
type answer struct {
	// text is all that the server said beside the ID of the decision: `200 PermissionDenied "permission denied"`, and the name of each header that
	// not every answer has; or the error code of the frame that reset the stream; or that the connection was closed.
	text string
	// decision is the ID of the decision; empty when the server told none.
	decision string
}

const (
	// denied is what every denied call is told, beside an ID.
	denied = `200 PermissionDenied "permission denied"`
	// malformed is how a request ends that is none by HTTP/2 (RFC 9113 §8.1.1), closed what cannot even be told apart from the next one.
	malformed = "reset: PROTOCOL_ERROR"
	closed    = "the connection was closed"
)

// writer is a client that writes the frames of its requests itself and reads their answers. It connects anew when the server has closed its connection.
type writer struct {
	connect func() net.Conn
	wire    *wire
}

// ask sends a request with these headers and an empty message, and waits for all of its answer.
func (w *writer) ask(t *testing.T, headers []hpack.HeaderField) answer {
	t.Helper()
	if w.wire == nil {
		w.wire = newWire(t, w.connect())
		w.wire.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	}
	got := w.wire.ask(t, headers)
	if got.text == closed {
		w.wire = nil
	}
	return got
}

func (h *wire) ask(t *testing.T, headers []hpack.HeaderField) answer {
	t.Helper()
	id := h.open(t, headers)
	// Five bytes are the prefix of a message that has none. The server may have ended the connection before.
	if err := h.framer.WriteData(id, true, make([]byte, 5)); err != nil {
		t.Logf("the message could not be sent: %v", err)
	}
	return h.answer(t, id)
}

// answer waits for all that the server says on a stream.
func (h *wire) answer(t *testing.T, id uint32) answer {
	t.Helper()
	if err := h.conn.SetReadDeadline(time.Now().Add(15 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fields := make(map[string]string)
	for {
		frame, err := h.framer.ReadFrame()
		if err != nil {
			if network, ok := errors.AsType[net.Error](err); ok && network.Timeout() {
				t.Fatal("the server does not answer")
			}
			return answer{text: closed}
		}
		if frame.Header().StreamID != id {
			continue
		}
		switch frame := frame.(type) {
		case *http2.RSTStreamFrame:
			return answer{text: "reset: " + frame.ErrCode.String()}
		case *http2.MetaHeadersFrame:
			for _, field := range frame.Fields {
				fields[field.Name] = field.Value
			}
			if frame.StreamEnded() {
				return answerOf(t, fields)
			}
		}
	}
}

// answerOf reads the headers and trailers of an answer.
func answerOf(t *testing.T, fields map[string]string) answer {
	t.Helper()
	code, err := strconv.ParseUint(fields["grpc-status"], 10, 32)
	if err != nil {
		t.Errorf("grpc-status %q: %v", fields["grpc-status"], err)
	}
	a := answer{
		text:     fmt.Sprintf("%s %s %q", fields[":status"], codes.Code(code), fields["grpc-message"]),
		decision: decisionIn(t, fields["grpc-status-details-bin"]),
	}
	for _, usual := range []string{":status", "grpc-status", "grpc-message"} {
		delete(fields, usual)
	}
	if fields["content-type"] == "application/grpc" {
		delete(fields, "content-type")
	}
	if a.decision != "" {
		delete(fields, "grpc-status-details-bin")
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		a.text += " " + name
	}
	return a
}

// decisionIn returns the ID of the decision in the details of a status. It fails when they say more than that.
func decisionIn(t *testing.T, details string) string {
	t.Helper()
	if details == "" {
		return ""
	}
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(details, "="))
	if err != nil {
		t.Errorf("the details of the status: %v", err)
		return ""
	}
	st, info := &spb.Status{}, &errdetails.ErrorInfo{}
	if err := proto.Unmarshal(raw, st); err != nil || len(st.GetDetails()) != 1 {
		t.Errorf("the details of the status: %v, %v", st, err)
		return ""
	}
	if err := st.GetDetails()[0].UnmarshalTo(info); err != nil || len(info.GetMetadata()) != 1 {
		t.Errorf("the details of the status: %v, %v", st, err)
	}
	return info.GetMetadata()["decision_id"]
}
