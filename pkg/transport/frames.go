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

// frameWriter passes on the HTTP/2 frames that gRPC writes to one connection, and can put a GOAWAY between two of them that do not belong together. gRPC itself sends
// GOAWAY to all connections of a server or by one age for all, and has no way to send it on one.
type frameWriter struct {
	to io.Writer

	mu sync.Mutex
	at position
	// leaving says that a GOAWAY is to be written as soon as one may come, left that there was one.
	leaving, left bool
}

// Write implements io.Writer.
func (w *frameWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.leaving {
		return w.write(p)
	}
	// gRPC may not pause between two frames for as long as it has messages to write: so it is interrupted.
	n, err := w.write(p[:w.at.ahead(p)])
	if err != nil || !w.at.between() {
		return n, err
	}
	if err := w.writeGoAway(); err != nil || n == len(p) {
		return n, err
	}
	rest, err := w.write(p[n:])
	return n + rest, err
}

// goAway asks the other end to make no more calls on the connection, now or when the frame that is being written, and the block of headers that it is of, has ended. It can take as long as a
// write to the peer. After the first time it does nothing.
func (w *frameWriter) goAway() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.at.between() {
		w.leaving = true
		return nil
	}
	return w.writeGoAway()
}

// writeGoAway writes a GOAWAY, unless there was one: gRPC sends its own at the end of a server and of a connection's greatest age, which ends
// with the last stream that it will serve. One with a higher stream must not follow it (RFC 9113 §6.8), and clients end the connection then.
func (w *frameWriter) writeGoAway() error {
	w.leaving = false
	if w.left || w.at.goneAway {
		return nil
	}
	w.left = true
	return writeGoAway(w.to)
}

// writeGoAway writes a GOAWAY that lets every stream that is under way end in peace.
func writeGoAway(to io.Writer) error {
	return http2.NewFramer(to, nil).WriteGoAway(lastStream, http2.ErrCodeNo, []byte("identity_is_renewed"))
}

// write passes p on and takes note of where frames end in what was written of it.
func (w *frameWriter) write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	for p = p[:n]; len(p) > 0; {
		p = p[w.at.advance(p):]
	}
	return n, err
}

// position is how far a sequence of frames has been written.
type position struct {
	header [frameHeader]byte
	// done is how much of a frame has been written, its header included; zero between two frames.
	done int
	// begun says that there was a frame: the first must be gRPC's SETTINGS (RFC 9113 §3.4). goneAway says that one was a GOAWAY.
	begun, goneAway bool
	// inBlock says that the last frame left a block of headers open, which the next one is to continue.
	inBlock bool
}

// between reports whether another frame may come here: the last one is complete, and with it the block of headers, if it was of one. A frame
// between a HEADERS and its CONTINUATION is an error of the connection (RFC 9113 §6.10), with which every call on it fails.
func (at *position) between() bool { return at.begun && at.done == 0 && !at.inBlock }

// ahead returns how much of p it is to where another frame may come, or to the end of p.
func (at position) ahead(p []byte) int {
	n := 0
	for n < len(p) {
		n += at.advance(p[n:])
		if at.between() {
			break
		}
	}
	return n
}

// left is how much is missing of the frame, or of its header as long as that is not whole.
func (at *position) left() int {
	if at.done < frameHeader {
		return frameHeader - at.done
	}
	return frameHeader + int(at.header[0])<<16 + int(at.header[1])<<8 + int(at.header[2]) - at.done
}

// advance goes on to the end of the frame that p continues or begins, or to the end of p, and returns how much of p that is.
func (at *position) advance(p []byte) int {
	n := 0
	if at.done < frameHeader {
		n = copy(at.header[at.done:], p)
		at.done += n
		if at.done < frameHeader {
			return n
		}
	}
	more := min(at.left(), len(p)-n)
	at.done += more
	if at.left() == 0 {
		at.done, at.begun = 0, true
		at.note(http2.FrameType(at.header[3]), http2.Flags(at.header[4]))
	}
	return n + more
}

// note takes note of the frame that has ended.
func (at *position) note(kind http2.FrameType, flags http2.Flags) {
	at.goneAway = at.goneAway || kind == http2.FrameGoAway
	switch kind {
	case http2.FrameHeaders, http2.FramePushPromise, http2.FrameContinuation:
		at.inBlock = !flags.Has(http2.FlagHeadersEndHeaders) // the same bit in all three
	default:
		at.inBlock = false
	}
}
