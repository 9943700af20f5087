package dial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// handshakeTimeout bounds how long a connection that was accepted waits for the server.
const handshakeTimeout = 10 * time.Second

// Proxy lends this process's identity to programs on the same machine. Each connection that it accepts becomes one to the server,
// over mutual TLS; what is said on it, HTTP/2 with gRPC in it, passes through as it is.
//
// Whoever connects acts as this process, so it serves loopback alone.
type Proxy struct {
	workload *Workload
	target   Target
	log      *slog.Logger
}

// NewProxy returns a Proxy to one server.
func NewProxy(w *Workload, to Target, log *slog.Logger) *Proxy {
	return &Proxy{workload: w, target: to, log: log}
}

// ErrNotLoopback means that a proxy was asked to serve the network.
var ErrNotLoopback = errors.New("not a loopback address")

// ListenLoopback listens on an address of this machine that no other can reach.
func ListenLoopback(ctx context.Context, address string) (net.Listener, error) {
	resolved, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--listen: %q is not HOST:PORT, such as 127.0.0.1:9000: %w", address, err)
	}
	if !resolved.IP.IsLoopback() {
		return nil, fmt.Errorf("--listen: %q is %w: whoever can connect acts with this identity; right would be 127.0.0.1:%d", address, ErrNotLoopback, resolved.Port)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", resolved.String())
	if err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	return listener, nil
}

// Serve accepts connections until ctx ends, and then ends those that are open. It closes the listener.
func (p *Proxy) Serve(ctx context.Context, listener net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() }) // Accept tells
	defer stop()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			if conn != nil {
				return conn.Close()
			}
			return nil
		}
		if err != nil {
			return errors.Join(fmt.Errorf("accept a connection: %w", err), listener.Close())
		}
		conns.Go(func() {
			if err := p.carry(ctx, conn); err != nil {
				p.log.WarnContext(ctx, "connection ended", "from", conn.RemoteAddr().String(), "to", p.target.String(), "err", err)
			}
		})
	}
}

// carry passes on what is said on one connection until both sides have ended.
func (p *Proxy) carry(ctx context.Context, plain net.Conn) error {
	bounded, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	secure, _, err := p.workload.Handshake(bounded, p.target)
	if err != nil {
		return errors.Join(err, plain.Close())
	}
	var once sync.Once
	closeBoth := func() { once.Do(func() { _, _ = plain.Close(), secure.Close() }) } // either may be closed by its peer
	stop := context.AfterFunc(ctx, closeBoth)
	defer stop()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(plain, secure) // how a connection ends is its peers' affair
		closeBoth()
	})
	_, _ = io.Copy(secure, plain)
	closeBoth()
	back.Wait()
	return nil
}
