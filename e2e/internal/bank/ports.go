package bank

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// given are the ports that were given to programs of this test binary, which may not have taken them yet.
var given struct {
	mu    sync.Mutex
	ports map[int]bool
}

// FreeAddress returns a loopback address whose port nobody has, nor was given to anybody before, below those that the kernel gives to outgoing connections.
func FreeAddress(t testing.TB) string {
	t.Helper()
	given.mu.Lock()
	defer given.mu.Unlock()
	if given.ports == nil {
		given.ports = make(map[int]bool)
	}
	var lastErr error
	for range 100 {
		port := 10000 + rand.IntN(20000)
		if given.ports[port] {
			continue
		}
		given.ports[port] = true
		address := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
		if err != nil {
			lastErr = err
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return address
	}
	t.Fatalf("no free port: %v", lastErr)
	return ""
}
