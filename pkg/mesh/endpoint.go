package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"
)

// endpoint is a gRPC server that drains when it is told to stop.
type endpoint struct {
	grpc    *grpc.Server
	log     *slog.Logger
	timeout time.Duration
	streams *streams
	// leave is called when a drain begins.
	leave func()
}

// serve serves on listener until ctx ends, then drains. It may be called once.
func (e *endpoint) serve(ctx context.Context, listener net.Listener) error {
	drained := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { drained <- e.drain() })
	// gRPC's Serve does not return before the last handler has, which may be never.
	served := make(chan error, 1)
	go func() { served <- e.grpc.Serve(listener) }()
	select {
	case err := <-served:
		if stop() { // ctx has not ended: Serve failed by itself
			return errors.Join(fmt.Errorf("serve gRPC: %w", err), e.cut())
		}
		return <-drained
	case err := <-drained:
		if err != nil {
			return err
		}
		// Nil after a stop, unless ctx ended before there was anything to stop.
		if err := <-served; !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	}
}

// drain lets calls in flight end, and cuts those that do not within the timeout.
func (e *endpoint) drain() error {
	e.leave()
	e.streams.end(errStopping)
	graceful := make(chan struct{})
	go func() {
		defer close(graceful)
		e.grpc.GracefulStop()
	}()
	timer := time.NewTimer(e.timeout)
	defer timer.Stop()
	select {
	case <-graceful:
		e.streams.wait()
		return nil
	case <-timer.C:
	}
	e.log.Warn("calls in flight did not end within the drain timeout; they are cut", "timeout", e.timeout)
	return e.cut()
}

// errHandlers means that handlers ignore their context. They are still running; there is no way to end them.
var errHandlers = errors.New("handlers did not end though their calls were cut")

// cut ends every call, and waits for the handlers for a bounded time.
func (e *endpoint) cut() error {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		e.grpc.Stop()
		e.streams.wait()
	}()
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-stopped:
		return nil
	case <-timer.C:
		return errHandlers
	}
}
