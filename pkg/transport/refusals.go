package transport

import (
	"errors"
	"io"
	"net"
	"sync/atomic"

	"golang.org/x/time/rate"

	"github.com/countersign-mesh/countersign/pkg/identity"
)

// refusals bounds what is logged of failed handshakes: a stranger can fail them as fast as it can dial, and the log must not grow at
// that pace.
type refusals struct {
	limiter    *rate.Limiter
	suppressed *atomic.Int64
}

func newRefusals() refusals {
	return refusals{limiter: rate.NewLimiter(10, 20), suppressed: new(atomic.Int64)}
}

// refused counts a failed handshake, logs it at a bounded rate, and returns its error.
func (r *Registry) refused(direction Direction, raw net.Conn, err error) error {
	log := r.outbound
	if direction == Inbound {
		log = r.inbound
	}
	if direction == Inbound && r.accepting.Err() != nil {
		return errNotAccepting // it is this process's doing and no fault of the peer
	}
	r.failed(direction, err)
	if err == io.EOF { //nolint:errorlint // gRPC compares it so: a probe that connected and said nothing, which is no fault
		return err
	}
	if !log.limiter.Allow() {
		log.suppressed.Add(1)
		return err
	}
	attrs := []any{"direction", direction.String(), "remote", raw.RemoteAddr().String(), "err", err}
	if broken, ok := errors.AsType[*identity.RuleError](err); ok {
		attrs = append(attrs, "rule", broken.Rule)
	}
	if n := log.suppressed.Swap(0); n > 0 {
		attrs = append(attrs, "not_logged_before", n)
	}
	r.opts.log.Warn("handshake refused", attrs...)
	return err
}
