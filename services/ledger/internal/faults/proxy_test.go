package faults_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// proxy stands between the books and PostgreSQL, and knows where a message of the protocol begins and ends
// (https://www.postgresql.org/docs/current/protocol-message-formats.html).
type proxy struct {
	listener net.Listener
	server   string
	// query is told every simple query, of which COMMIT is one, and says what becomes of it.
	query func(text string) (string, cut)

	mu    sync.Mutex
	conns []net.Conn
	wg    sync.WaitGroup
}

// cut says when a connection is cut.
type cut int

const (
	never  cut = iota
	before     // the query reaches the server
	after      // the server has answered, and before the answer arrives
)

// newProxy returns a DSN for the database at dsn that leads through a proxy.
func newProxy(t *testing.T, dsn string, query func(text string) (string, cut)) string {
	t.Helper()
	at, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, server: at.Host, query: query}
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	at.Host = l.Addr().String()
	return at.String()
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	for _, conn := range p.conns {
		_ = conn.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, server)
		p.mu.Unlock()
		link := &link{client: client, server: server, query: p.query}
		p.wg.Go(link.up)
		p.wg.Go(link.down)
	}
}

// link is one connection through the proxy.
type link struct {
	client, server net.Conn
	query          func(string) (string, cut)

	mu    sync.Mutex
	deafs bool // what the server says does not arrive any more
}

// up carries what the client says, message by message.
func (l *link) up() {
	defer func() { _ = l.server.Close() }()
	first := true
	for {
		kind, body, err := readMessage(l.client, first)
		first = first && bytes.Equal(body[:min(4, len(body))], sslRequest) // after which the real first message comes
		if err != nil {
			_ = l.client.Close()
			return
		}
		when := never
		if kind == 'Q' {
			var text string
			text, when = l.query(string(bytes.TrimRight(body, "\x00")))
			body = append([]byte(text), 0)
		}
		switch when {
		case before:
			_ = l.client.Close()
			return
		case after:
			l.mu.Lock()
			l.deafs = true
			l.mu.Unlock()
		case never:
		}
		if writeMessage(l.server, kind, body) != nil {
			_ = l.client.Close()
			return
		}
	}
}

// down carries what the server says.
func (l *link) down() {
	defer func() { _ = l.client.Close() }()
	chunk := make([]byte, 32<<10)
	for {
		n, err := l.server.Read(chunk)
		l.mu.Lock()
		deaf := l.deafs
		l.mu.Unlock()
		if err != nil || deaf {
			_ = l.server.Close()
			return
		}
		if _, err := l.client.Write(chunk[:n]); err != nil {
			return
		}
	}
}

// sslRequest is the body of the message that asks for TLS.
var sslRequest = binary.BigEndian.AppendUint32(nil, 80877103)

// readMessage reads a message: its kind, which the first one of a connection lacks, and what comes after its length.
func readMessage(r io.Reader, first bool) (kind byte, body []byte, err error) {
	head := make([]byte, 5)
	if first {
		head = head[:4]
	}
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, nil, err
	}
	if !first {
		kind = head[0]
	}
	n := binary.BigEndian.Uint32(head[len(head)-4:])
	if n < 4 || n > 1<<26 {
		return 0, nil, errors.New("the message has no length")
	}
	body = make([]byte, n-4)
	_, err = io.ReadFull(r, body)
	return kind, body, err
}

func writeMessage(w io.Writer, kind byte, body []byte) error {
	var all []byte
	if kind != 0 {
		all = append(all, kind)
	}
	all = binary.BigEndian.AppendUint32(all, uint32(len(body)+4))
	_, err := w.Write(append(all, body...))
	return err
}
