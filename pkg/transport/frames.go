package transport

import (
	"io"
	"sync"

	"golang.org/x/net/http2"
)

const (
	frameHeader = 9 // RFC 9113 §4.1
	// lastStream is the highest stream there can be. A GOAWAY with it refuses no stream that is under way (RFC 9113 §6.8).
	lastStream = 1<<31 - 1
)

// frameWriter passes on the HTTP/2 frames that gRPC writes to one connection, and can put a GOAWAY between two of them. gRPC itself sends
// GOAWAY to all connections of a server or by one age for all, and has no way to send it on one.
type frameWriter struct {
	to io.Writer

	mu sync.Mutex
	// header is what has been written of the header of a frame, payload how much of its payload is still to come.
	header  []byte
	payload int
	// begun says that there was a frame: the first must be gRPC's SETTINGS (RFC 9113 §3.4).
	begun bool
	// leaving says that a GOAWAY is to be written as soon as a frame has ended.
	leaving bool
}

// Write implements io.Writer.
func (w *frameWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.to.Write(p)
	w.follow(p[:n])
	if err == nil && w.leaving && w.between() {
		err = w.writeGoAway()
	}
	return n, err
}

// goAway asks the other end to make no more calls on the connection, now or when the frame that is being written has ended. It can take as long as a
// write to the peer.
func (w *frameWriter) goAway() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.between() {
		w.leaving = true
		return nil
	}
	return w.writeGoAway()
}

// between reports whether the last frame is complete.
func (w *frameWriter) between() bool { return w.begun && len(w.header) == 0 && w.payload == 0 }

func (w *frameWriter) writeGoAway() error {
	w.leaving = false
	return http2.NewFramer(w.to, nil).WriteGoAway(lastStream, http2.ErrCodeNo, []byte("identity_is_renewed"))
}

// follow takes note of where frames begin and end in what was written.
func (w *frameWriter) follow(p []byte) {
	for len(p) > 0 {
		w.begun = true
		if w.payload > 0 {
			n := min(w.payload, len(p))
			w.payload, p = w.payload-n, p[n:]
			continue
		}
		n := min(frameHeader-len(w.header), len(p))
		w.header, p = append(w.header, p[:n]...), p[n:]
		if len(w.header) == frameHeader {
			w.payload = int(w.header[0])<<16 | int(w.header[1])<<8 | int(w.header[2])
			w.header = w.header[:0]
		}
	}
}
