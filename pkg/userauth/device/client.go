package device

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	// requestTimeout bounds a request whose context does not.
	requestTimeout = 30 * time.Second
	// maxAnswer is more than any answer has.
	maxAnswer = 256 << 10
)

// Error is an answer of the authorization server that is not what was asked for (RFC 6749 §5.2).
type Error struct {
	// Code is the answer's error, such as invalid_grant.
	Code string
	// Status is the HTTP status.
	Status int
	// RetryAfter is how long to wait before another attempt (RFC 9110 §10.2.3); 0 when the server did not say.
	RetryAfter time.Duration
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("the authorization server refused: %s (HTTP status %d)", e.Code, e.Status)
}

// client talks to one authorization server.
type client struct {
	issuer string
	http   *http.Client
}

// newClient returns a client that presents a device's certificate; d may be nil.
func newClient(s Server, d *Device) (*client, error) {
	u, err := url.Parse(s.Issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("the issuer is not a URL of https")
	}
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: s.Roots, ServerName: u.Hostname()}
	if d != nil {
		config = d.TLS(s.Roots, u.Hostname())
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, IdleConnTimeout: requestTimeout}
	if s.Address != "" {
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, s.Address)
		}
	}
	return &client{issuer: s.Issuer, http: &http.Client{
		Transport: transport, Timeout: requestTimeout,
		// A password or a token goes to the issuer and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// close ends connections that nobody uses.
func (c *client) close() { c.http.CloseIdleConnections() }

// call is a request.
type call struct {
	contentType string
	body        []byte
	// retryKey makes a request that is sent twice the same one.
	retryKey string
}

func formCall(parameters url.Values) call {
	return call{contentType: "application/x-www-form-urlencoded", body: []byte(parameters.Encode())}
}

// post sends a request and reads its answer, if that has the status that is wanted. The error is an *Error when the server answered otherwise. No error has anything of
// what was sent.
func (c *client) post(ctx context.Context, path string, r call, want int, answer any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.issuer+path, bytes.NewReader(r.body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", r.contentType)
	if r.retryKey != "" {
		request.Header.Set("Idempotency-Key", r.retryKey)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if response.StatusCode != want {
		return refusal(response, text)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return errors.New("the answer cannot be read") // the cause may hold some of it
	}
	return nil
}

func refusal(response *http.Response, text []byte) *Error {
	var told struct {
		Code string `json:"error"`
	}
	if json.Unmarshal(text, &told) != nil || told.Code == "" || len(told.Code) > 64 {
		told.Code = "unknown"
	}
	e := &Error{Code: told.Code, Status: response.StatusCode}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	return e
}
