package front_test

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"os"
	"testing"
	"time"
)

// pace is how long a client may take in these tests.
const pace = 2 * time.Second

func pacedWorld(t *testing.T) *world {
	t.Helper()
	return worldWith(t, func(w *world) { w.limits.Pace = pace })
}

// A watch may have nothing to say for longer than a client may take to read.
func TestASilentWatchStaysOpen(t *testing.T) {
	t.Parallel()
	for name, major := range map[string]int{"HTTP/1.1": 1, "HTTP/2": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := pacedWorld(t)
			p := w.phone(t, w.alice)
			transport, _ := p.http.Transport.(*http.Transport)
			transport.ForceAttemptHTTP2 = major == 2
			response := p.request(t, http.MethodGet, "/v1/accounts/"+aliceAccount+"/activity", bearer(w.token(t, nil)), "") //nolint:bodyclose // request has it closed
			lines := bufio.NewScanner(response.Body)
			if response.ProtoMajor != major || !lines.Scan() {
				t.Fatalf("%s: %s: %v", response.Proto, response.Status, lines.Err())
			}
			<-time.After(pace + pace/2) // it is the silence that is tested
			select {
			case w.behind.more <- struct{}{}:
			case <-time.After(10 * time.Second):
			}
			if !lines.Scan() {
				t.Errorf("the watch has ended: %v", lines.Err())
			}
		})
	}
}

// dial connects to REST with the certificate of alice's device.
func (w *world) dial(t *testing.T, protocol string) *tls.Conn {
	t.Helper()
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: w.login.devices.Pool(), ServerName: "localhost", NextProtos: []string{protocol}, Certificates: []tls.Certificate{w.alice},
	}
	raw, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", w.restAt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	conn, _ := raw.(*tls.Conn)
	_ = conn.SetDeadline(time.Now().Add(4 * pace))
	return conn
}

// ATTACKS 52: a client that takes nothing of an answer loses its stream, whether the answer is sent while it is written or when it is done.
func TestAnAnswerThatIsNotTaken(t *testing.T) {
	t.Parallel()
	w := pacedWorld(t)
	for name, path := range map[string]string{"a long answer": "/openapi.json", "a short one": "/v1/accounts"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := w.dial(t, "h2")
			// RFC 9113 §3.4: the preface, with an initial window of nothing (§6.5.2); then GET (RFC 7541 appendix A), which ends its stream.
			hello := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x06\x04\x00\x00\x00\x00\x00" + "\x00\x04\x00\x00\x00\x00"
			block := "\x82\x87\x01\x09localhost\x04" + string(rune(len(path))) + path
			if _, err := io.WriteString(conn, hello+"\x00\x00"+string(rune(len(block)))+"\x01\x05\x00\x00\x00\x01"+block); err != nil {
				t.Fatal(err)
			}
			for kind := byte(0); kind != 3; { // RST_STREAM
				head := make([]byte, 9)
				_, err := io.ReadFull(conn, head)
				if err == nil {
					_, err = io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(head)>>8))
				}
				if err != nil {
					t.Fatalf("the stream is not reset: %v", err)
				}
				kind = head[3]
			}
		})
	}
}

// A client that announces a body and does not send it is answered, where nobody needs the body, and holds no connection for longer than a request may take.
func TestABodyThatIsNotSent(t *testing.T) {
	t.Parallel()
	w := pacedWorld(t)
	authorization := "Authorization: Bearer " + w.token(t, nil) + "\r\n"
	const (
		json    = "Content-Type: application/json\r\n"
		length  = "Content-Length: 10\r\n"
		chunked = "Transfer-Encoding: chunked\r\n"
	)
	for name, c := range map[string]struct {
		request string
		status  int
		waits   bool // the answer is for when the body is there, or late
	}{
		"no token":                 {"POST /v1/transfers HTTP/1.1\r\n" + json + length, 401, false},
		"no token, in pieces":      {"POST /v1/transfers HTTP/1.1\r\n" + json + chunked, 401, false},
		"the document":             {"GET /openapi.json HTTP/1.1\r\n" + length, 200, false},
		"a verb without a body":    {"GET /v1/accounts HTTP/1.1\r\n" + authorization + length, 200, false},
		"no such path":             {"POST /v1/nothing HTTP/1.1\r\n" + length, 401, false},
		"another type":             {"POST /v1/transfers HTTP/1.1\r\n" + authorization + length, 415, false},
		"a path that is not clean": {"POST //v1/transfers HTTP/1.1\r\n" + length, 401, false},
		"what nobody can expect":   {"POST /v1/transfers HTTP/1.1\r\nExpect: more\r\n" + length, 417, false},
		"options of all":           {"OPTIONS * HTTP/1.1\r\n" + length, 401, false},
		"a body that is read":      {"POST /v1/transfers HTTP/1.1\r\n" + authorization + json + length, 400, true},
		"pieces that are read":     {"POST /v1/transfers HTTP/1.1\r\n" + authorization + json + chunked, 400, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := w.dial(t, "http/1.1")
			began := time.Now()
			if _, err := io.WriteString(conn, c.request+"Host: localhost\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			buffered := bufio.NewReader(conn)
			response, err := http.ReadResponse(buffered, nil)
			if err != nil {
				t.Fatalf("no answer: %v", err)
			}
			defer func() { _ = response.Body.Close() }()
			if late := time.Since(began) >= pace-pace/10; response.StatusCode != c.status || late != c.waits || !response.Close {
				t.Errorf("%s after %v, the last one: %v", response.Status, time.Since(began), response.Close)
			}
			_, _ = io.Copy(io.Discard, response.Body)
			if _, err := buffered.ReadByte(); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
				t.Errorf("the connection is open after %v: %v", time.Since(began), err)
			}
		})
	}
}

// A connection whose requests were sent whole stays open, for longer than a request may take.
func TestAConnectionIsKept(t *testing.T) {
	t.Parallel()
	w := pacedWorld(t)
	conn := w.dial(t, "http/1.1")
	buffered := bufio.NewReader(conn)
	header := "HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + w.token(t, nil) + "\r\n"
	for n, request := range []string{
		"POST /v1/transfers " + header + "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n[]",
		"GET /v1/accounts " + header + "\r\n",
		"POST /v1/transfers " + header + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n",
		"GET /openapi.json " + header + "\r\n",
	} {
		if n == 3 {
			<-time.After(pace + pace/2) // it is the rest that is tested
		}
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(buffered, nil)
		if err != nil || response.Close {
			t.Fatalf("%s is the last one: %v", request, err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
	}
}
