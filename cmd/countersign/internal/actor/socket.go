package actor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
)

// SocketName is the name of an actor's socket, in a directory that has the actor's name.
const SocketName = "act.sock"

// Sockets are actors that run already, each behind a socket.
type Sockets struct {
	// Dir has a directory for each actor.
	Dir string
}

// Act meets the actor with this name, which calls these servers. It lives until Close, or ctx ends.
func (s Sockets) Act(ctx context.Context, name string, to ...dial.Target) (*Actor, error) {
	path := filepath.Join(s.Dir, name, SocketName)
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("the actor %s is not there: %w; in containers it is started with: docker compose --profile demo up", name, err)
	}
	conn, ok := raw.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("meet the actor %s: the system gave a %T", name, raw), raw.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // whoever waits for an answer has the reason
	a, err := meet(conn, conn, to, func() error {
		stop()
		return part(conn)
	})
	if err != nil {
		return nil, fmt.Errorf("meet the actor %s at %s: %w", name, path, err)
	}
	return a, nil
}

// part says that there are no more orders, and waits until the actor has ended: its connection to the server is closed then.
func part(conn *net.UnixConn) error {
	err := errors.Join(conn.SetDeadline(time.Now().Add(goodbye)), conn.CloseWrite())
	if err == nil {
		var last answer
		if err = json.NewDecoder(conn).Decode(&last); errors.Is(err, io.EOF) {
			err = nil
		} else if err == nil {
			err = errors.New("the actor said something that it was not asked for")
		}
	}
	if closed := conn.Close(); err == nil {
		err = closed
	}
	if err != nil && !errors.Is(err, net.ErrClosed) { // by the end of ctx, which the caller knows of
		return fmt.Errorf("take leave of the actor: %w", err)
	}
	return nil
}
