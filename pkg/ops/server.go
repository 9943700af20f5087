package ops

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// readTimeout bounds how long a client may take to say what it wants.
const readTimeout = 5 * time.Second

// Server serves a Handler. The zero value is not usable; see Listen.
type Server struct {
	http *http.Server
	done sync.WaitGroup
}

// Listen serves h at address until Close.
func Listen(ctx context.Context, address string, h *Handler, log *slog.Logger) (*Server, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("ops listener: %w", err)
	}
	s := &Server{http: &http.Server{Handler: h, ReadHeaderTimeout: readTimeout}}
	s.done.Go(func() {
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.ErrorContext(ctx, "the ops listener ended", "error", err)
		}
	})
	log.InfoContext(ctx, "/livez, /readyz and /metrics are served", "address", listener.Addr().String())
	return s, nil
}

// Close stops serving and waits until it has.
func (s *Server) Close() error {
	defer s.done.Wait()
	return s.http.Close()
}
