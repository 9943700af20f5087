package spire

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/local"
	"google.golang.org/grpc/status"
)

const (
	// answerTime bounds one call of the server.
	answerTime = 10 * time.Second
	// askInterval is how often a server is asked that does not answer yet.
	askInterval = 50 * time.Millisecond
)

// Server is the administrative API of a SPIRE server, on its unix socket: who can open that may do everything there. It is safe for
// concurrent use.
type Server struct {
	socket  string
	conn    *grpc.ClientConn
	bundles bundlev1.BundleClient
	entries entryv1.EntryClient
}

// OpenServer returns the API at a socket. Nothing is dialled yet.
func OpenServer(socket string) (*Server, error) {
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(local.NewCredentials()), grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: askInterval, Multiplier: 1.5, MaxDelay: time.Second},
		MinConnectTimeout: answerTime,
	}))
	if err != nil {
		return nil, fmt.Errorf("open the SPIRE server's API at %s: %w", socket, err)
	}
	return &Server{socket: socket, conn: conn, bundles: bundlev1.NewBundleClient(conn), entries: entryv1.NewEntryClient(conn)}, nil
}

// Close ends the connection.
func (s *Server) Close() error {
	if err := s.conn.Close(); err != nil {
		return fmt.Errorf("close the connection to the SPIRE server: %w", err)
	}
	return nil
}

// Await waits until the server answers and has a bundle, that is, an authority to sign with. It gives up when ctx ends.
func (s *Server) Await(ctx context.Context) error {
	tick := time.NewTicker(askInterval)
	defer tick.Stop()
	for {
		_, err := s.bundle(ctx)
		if err == nil {
			return nil
		}
		if code := status.Code(err); code != codes.Unavailable && code != codes.NotFound && ctx.Err() == nil {
			return err // no wait would help
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the SPIRE server does not answer at %s: %w", s.socket, errors.Join(context.Cause(ctx), err))
		case <-tick.C:
		}
	}
}

// bundle asks for the trust domain's bundle.
func (s *Server) bundle(ctx context.Context) (*types.Bundle, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	bundle, err := s.bundles.GetBundle(ctx, &bundlev1.GetBundleRequest{OutputMask: &types.BundleMask{X509Authorities: true}})
	if err != nil {
		return nil, fmt.Errorf("ask the SPIRE server for its bundle: %w", err)
	}
	return bundle, nil
}

// WriteBundle writes the trust domain's authorities as PEM, for an agent that starts and must know its server. Tainted ones are left out:
// they are on their way to be revoked. The file is public.
func (s *Server) WriteBundle(ctx context.Context, path string) error {
	bundle, err := s.bundle(ctx)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	for _, authority := range bundle.GetX509Authorities() {
		certificate, err := x509.ParseCertificate(authority.GetAsn1())
		if err != nil {
			return fmt.Errorf("read the SPIRE server's bundle: %w", err)
		}
		if !authority.GetTainted() {
			text.Write(encode(certificate))
		}
	}
	if text.Len() == 0 {
		return errors.New("the SPIRE server's bundle has no authority to trust")
	}
	if err := writeFile(path, text.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the SPIRE server's bundle: %w", err)
	}
	return nil
}
