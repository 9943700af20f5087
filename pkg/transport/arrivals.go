package transport

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// frameReader passes on the HTTP/2 frames that arrive on one connection, and can put a GOAWAY between two of them that nobody has sent. gRPC gives a client no way
// to leave a connection in peace: what its server asks for with GOAWAY is the one way, in which calls in flight go on and the next ones are made on another connection.
//
// One goroutine reads, as is gRPC's way; the rest is safe for concurrent use.
type frameReader struct {
	from interface {
		io.Reader
		SetReadDeadline(t time.Time) error
	}
	// at is how far the sequence of frames has been read, notice what is left to read of our GOAWAY. They are the reader's.
	at     position
	notice []byte

	mu sync.Mutex
	// leaving says that a GOAWAY is to be read as soon as one may come, left that there was one.
	leaving, left bool
	// woken says that the deadline is a past one, to wake the reader; deadline is the one that gRPC has set.
	woken    bool
	deadline time.Time
}

// goAway has the reader believe that the other end asks to make no more calls on the connection, now or when the frame that is being read, and the block of headers that it is of, has ended. After the
// first time it does nothing.
func (r *frameReader) goAway() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.leaving {
		return nil
	}
	r.leaving, r.woken = true, true
	// A read that has timed out, other than a write, leaves a TLS connection as it was.
	return r.from.SetReadDeadline(time.Unix(1, 0))
}

// Read implements io.Reader.
func (r *frameReader) Read(p []byte) (int, error) {
	for {
		n, err := r.read(p)
		if n > 0 || !isLate(err) || !r.resume() {
			return n, err
		}
	}
}

// read reads once.
func (r *frameReader) read(p []byte) (int, error) {
	if r.isLeaving() {
		if r.at.between() {
			r.leave()
		} else {
			p = p[:min(len(p), r.at.left())]
		}
	}
	if len(r.notice) > 0 {
		n := copy(p, r.notice)
		r.notice = r.notice[n:]
		return n, nil
	}
	n, err := r.from.Read(p)
	for read := p[:n]; len(read) > 0; {
		read = read[r.at.advance(read):]
	}
	return n, err
}

// isLeaving reports whether there is a GOAWAY to be read.
func (r *frameReader) isLeaving() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leaving && !r.left
}

// leave makes the GOAWAY what is read next, unless the server has sent one: after that the client is leaving anyway, and one with a higher stream must not
// follow (RFC 9113 §6.8).
func (r *frameReader) leave() {
	r.mu.Lock()
	r.left = true
	r.mu.Unlock()
	if r.at.goneAway {
		return
	}
	var frame bytes.Buffer
	_ = writeGoAway(&frame) // a buffer takes all
	r.notice = frame.Bytes()
}

// resume undoes what woke the reader. It reports whether that was it, and not a deadline of gRPC's.
func (r *frameReader) resume() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.woken {
		return false
	}
	r.woken = false
	return r.from.SetReadDeadline(r.deadline) == nil // it fails only when the connection is closed
}

// setDeadline is SetReadDeadline as gRPC has it. While the reader is being woken, it takes effect once that was noticed.
func (r *frameReader) setDeadline(t time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deadline = t
	if r.woken {
		return nil
	}
	return r.from.SetReadDeadline(t)
}

// patient is a network connection that crypto/tls can go on with after a read has timed out, as is documented. It does so only if the error says that it is temporary,
// and not every net.Conn thinks of that: gRPC's bufconn does not.
type patient struct{ net.Conn }

// Read implements net.Conn.
func (p patient) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	if isLate(err) {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

// isLate reports whether a read failed because its deadline has passed. Whoever does not wrap os.ErrDeadlineExceeded, as bufconn does not, says so by a timeout; but
// so does the kernel of a peer that answers nothing any more (ETIMEDOUT). That is the end of the connection, and whoever looks for its cause is to find it.
func isLate(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	if _, ok := errors.AsType[syscall.Errno](err); ok {
		return false
	}
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}
