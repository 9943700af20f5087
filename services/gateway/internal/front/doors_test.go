package front_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
)

// answer is what a caller is told, over either door.
type answer struct {
	code   codes.Code
	reason string // the reason of gRPC's ErrorInfo, or a problem's code
	text   string
}

// phone is one connection to each door with the certificate of a device.
type phone struct {
	world  *world
	client mobilev1.MobileBankServiceClient
	http   *http.Client
}

func (w *world) phone(t *testing.T, cert tls.Certificate) *phone {
	t.Helper()
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: w.login.devices.Pool(), ServerName: "localhost", Certificates: []tls.Certificate{cert}}
	conn, err := grpc.NewClient(w.grpcAddr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: false, DisableCompression: true}
	t.Cleanup(func() {
		_ = conn.Close()
		transport.CloseIdleConnections()
	})
	return &phone{w, mobilev1.NewMobileBankServiceClient(conn), &http.Client{Transport: transport}}
}

// with returns the metadata of a call.
func with(ctx context.Context, authorization []string, more ...string) context.Context {
	md := metadata.Pairs(more...)
	md["authorization"] = authorization
	return metadata.NewOutgoingContext(ctx, md)
}

func told(err error) answer {
	st := status.Convert(err)
	a := answer{code: st.Code(), text: st.Message()}
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			a.reason = info.GetReason()
		}
	}
	return a
}

// request sends a request over REST.
func (p *phone) request(t *testing.T, method, path string, header http.Header, body string) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // a watch that is let in has no end
	t.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, method, "https://"+p.world.restAt+path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	request.Header = header.Clone()
	if method != http.MethodGet && header.Get("Content-Type") == "" {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := p.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

// problem is what an answer that is an error says.
type problem struct {
	Title, Detail, Code string
	Status              int
}

// reply is the head of an answer.
type reply struct {
	StatusCode int
	Header     http.Header
}

// fetch sends a request and reads the answer.
func (p *phone) fetch(t *testing.T, method, path string, header http.Header, body string) (answer, reply, []byte) {
	t.Helper()
	response := p.request(t, method, path, header, body) //nolint:bodyclose // request has it closed
	head := reply{response.StatusCode, response.Header}
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode == http.StatusOK {
		return answer{code: codes.OK}, head, content
	}
	var told problem
	if err := json.Unmarshal(content, &told); err != nil || response.Header.Get("Content-Type") != "application/problem+json" || told.Status != response.StatusCode || told.Title == "" || told.Code == "" {
		t.Errorf("%s %s: no problem details: %d %s %s", method, path, response.StatusCode, response.Header.Get("Content-Type"), content)
	}
	code, ok := map[int]codes.Code{
		400: codes.InvalidArgument, 401: codes.Unauthenticated, 403: codes.PermissionDenied, 404: codes.NotFound, 405: codes.Unimplemented,
		413: codes.InvalidArgument, 415: codes.InvalidArgument, 429: codes.ResourceExhausted, 503: codes.Unavailable, 500: codes.Internal,
	}[response.StatusCode]
	if !ok {
		t.Errorf("status %d", response.StatusCode)
	}
	return answer{code, told.Code, told.Detail}, head, content
}

// list lists the accounts over both doors, with whatever authorization.
func (p *phone) list(t *testing.T, authorization ...string) map[string]answer {
	t.Helper()
	_, err := p.client.ListAccounts(with(t.Context(), authorization), &mobilev1.ListAccountsRequest{})
	rest, _, _ := p.fetch(t, http.MethodGet, "/v1/accounts", http.Header{"Authorization": authorization}, "")
	return map[string]answer{"gRPC": told(err), "REST": rest}
}

// watch is an open watch over one of the doors.
type watch struct {
	next func() error
}

// watches opens a watch over each door and returns when both have sent their first message.
func (p *phone) watches(t *testing.T, token string) map[string]watch {
	t.Helper()
	stream, err := p.client.WatchActivity(with(t.Context(), []string{"Bearer " + token}), &mobilev1.WatchActivityRequest{AccountId: aliceAccount})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	response := p.request(t, http.MethodGet, "/v1/accounts/"+aliceAccount+"/activity", bearer(token), "") //nolint:bodyclose // request has it closed
	lines := bufio.NewScanner(response.Body)
	if response.StatusCode != http.StatusOK || !lines.Scan() {
		t.Fatalf("status %d: %v", response.StatusCode, lines.Err())
	}
	return map[string]watch{
		"gRPC": {func() error { _, err := stream.Recv(); return err }},
		"REST": {func() error {
			if !lines.Scan() {
				if lines.Err() == nil {
					return io.EOF
				}
				return lines.Err()
			}
			var message struct {
				Error *struct {
					Code    codes.Code
					Message string
				}
			}
			if err := json.Unmarshal(lines.Bytes(), &message); err != nil {
				return err
			}
			if message.Error == nil {
				return nil // one more message
			}
			return status.Error(message.Error.Code, message.Error.Message)
		}},
	}
}
