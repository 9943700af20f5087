package oauth

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"
)

const (
	headerTimeout = 5 * time.Second
	readTimeout   = 10 * time.Second
	writeTimeout  = 20 * time.Second
	idleTimeout   = time.Minute
	maxHeader     = 16 << 10
	// maxConns bounds the memory of connections.
	maxConns = 1024
	// stopTimeout is how long requests in flight may take when the process stops.
	stopTimeout = 5 * time.Second
)

// Serve serves h on listener until ctx ends, and then what is in flight; it returns nil after that.
func Serve(ctx context.Context, listener net.Listener, config *tls.Config, h http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler: h, TLSConfig: config, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader,
		// Handshakes that fail are strangers', and there may be any number of them.
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		stopped <- errors.Join(server.Shutdown(ending), server.Close())
	})
	log.InfoContext(ctx, "devices are served", "address", listener.Addr().String())
	err := server.ServeTLS(netutil.LimitListener(listener, maxConns), "", "")
	if stop() { // ctx has not ended: it failed by itself
		return fmt.Errorf("serve devices: %w", err)
	}
	if err := <-stopped; err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}
