package transport

import (
	"context"
	"errors"
	"time"
)

const (
	// maxHandshakes is how many inbound handshakes go on at once. Each costs a signature here before the peer has shown anything.
	maxHandshakes = 256
	// handshakeTime is how long one may take from the peer's first message on: one round trip, and two signatures at each end.
	handshakeTime = 5 * time.Second
	// inboundTimeout bounds all of it, the wait for a slot included. The deadline that gRPC sets on the socket ends reads and
	// writes alone.
	inboundTimeout = 10 * time.Second
)

var errSlow = errors.New("the handshake took too long")

// enter waits for a slot. It is called when the peer's first message is there, so that connections that say nothing take no slot
// from those that do; and who has one must be quick, so that those who stop half-way do not keep the others out.
func (h *handshake) enter(ctx context.Context) error {
	select {
	case h.registry.slots <- struct{}{}:
		h.began = time.AfterFunc(h.registry.opts.handshakeTime, func() { h.end(errSlow) })
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// leave gives the slot back, if there is one.
func (h *handshake) leave() {
	if h.began != nil {
		h.began.Stop()
		<-h.registry.slots
	}
}
