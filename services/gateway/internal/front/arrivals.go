package front

import (
	"net"
	"net/http"
	"sync"
)

// arrivals are the connections to an http.Server that have not asked for anything yet. Its Shutdown waits five seconds for each of them, and so a stranger who
// connects and says nothing would hold up a drain. It is safe for concurrent use.
type arrivals struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// note is for http.Server.ConnState.
func (a *arrivals) note(conn net.Conn, state http.ConnState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if state != http.StateNew {
		delete(a.conns, conn)
		return
	}
	if a.conns == nil {
		a.conns = make(map[net.Conn]struct{})
	}
	a.conns[conn] = struct{}{}
}

// close closes them.
func (a *arrivals) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for conn := range a.conns {
		_ = conn.Close() // it is not needed any more
	}
}
