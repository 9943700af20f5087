package supervisor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"syscall"
)

// reservation holds ports until the programs that are to have them start, so that nobody else takes them meanwhile.
type reservation struct {
	ports     map[int]int
	listeners []net.Listener
}

// release gives all ports up that are still held.
func (r *reservation) release() error {
	return r.giveUp(func(net.Listener) bool { return true })
}

// releaseFor gives the ports of one program up.
func (r *reservation) releaseFor(p Program) error {
	return r.giveUp(func(l net.Listener) bool {
		at := l.Addr().String()
		return at == p.Address || at == p.OpsAddress || at == p.AgentAddress || slices.Contains(p.Doors, at)
	})
}

func (r *reservation) giveUp(which func(net.Listener) bool) error {
	var errs []error
	var held []net.Listener
	for _, l := range r.listeners {
		if which(l) {
			errs = append(errs, l.Close())
		} else {
			held = append(held, l)
		}
	}
	r.listeners = held
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("release the reserved ports: %w", err)
	}
	return nil
}

// offsets are the offsets of all ports from the base port, and who has them.
func offsets(i issuer) map[int]string {
	users := i.users()
	for _, s := range services() {
		users[s.offset] = s.name
		users[s.offset+opsOffset] = s.name + ", ops"
		for _, d := range s.doors {
			users[d.offset] = d.name
		}
	}
	return users
}

// reserve takes the mesh's ports. All that are taken are reported at once, each with who holds it where that can be had.
func reserve(ctx context.Context, base int, users map[int]string) (*reservation, error) {
	if base != 0 {
		return reserveFrom(ctx, base, users)
	}
	// Below the range that the kernel takes the ports of outgoing connections from (32768 and up on Linux, 49152 on macOS):
	// one of those could take the port between release and the program's start.
	const lowest, highest, attempts = 10000, 32000, 50
	var errs error
	for range attempts {
		r, err := reserveFrom(ctx, lowest+rand.IntN(highest-lowest), users) //nolint:gosec // a choice, no secret
		if err == nil {
			return r, nil
		}
		errs = err
	}
	return nil, fmt.Errorf("found no free ports in %d attempts: %w", attempts, errs)
}

func reserveFrom(ctx context.Context, base int, users map[int]string) (*reservation, error) {
	r := &reservation{ports: make(map[int]int)}
	var errs []error
	order := make([]int, 0, len(users))
	for offset := range users {
		order = append(order, offset)
	}
	slices.Sort(order)
	for _, offset := range order {
		port := base + offset
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			errs = append(errs, portError(port, users[offset], err))
			continue
		}
		r.ports[offset] = port
		r.listeners = append(r.listeners, l)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(fmt.Errorf("%w\nstop what holds them, or choose others with --base-port (0 takes free ones)", err), r.release())
	}
	return r, nil
}

// ErrPortInUse means that a port of the mesh is taken.
var ErrPortInUse = errors.New("in use")

func portError(port int, user string, err error) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("--base-port: port %d (%s): %w", port, user, err)
	}
	if by, ok := holder(port); ok {
		return fmt.Errorf("--base-port: port %d (%s) is %w by %s", port, user, ErrPortInUse, by)
	}
	return fmt.Errorf("--base-port: port %d (%s) is %w", port, user, ErrPortInUse)
}
