package userauth_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/jwks"
	"github.com/countersign-mesh/countersign/pkg/userauth/userauthtest"
)

// soon is how long it may take until what is revoked has ended.
const soon = time.Second

// openStream opens a stream of a method and takes the first message.
func openStream(t *testing.T, conn *grpc.ClientConn, method, token string) grpc.ClientStream {
	t.Helper()
	s, err := conn.NewStream(authorized(t, "Bearer "+token), &grpc.StreamDesc{ServerStreams: true}, "/test.Bank/"+method)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.SendMsg(wrapperspb.String("")), s.CloseSend()); err != nil {
		t.Fatal(err)
	}
	out := new(wrapperspb.StringValue)
	if err := s.RecvMsg(out); err != nil || out.GetValue() != "alice" {
		t.Fatalf("first message %q: %v", out.GetValue(), err)
	}
	return s
}

// end reads a stream to its end.
func end(s grpc.ClientStream) error {
	for {
		if err := s.RecvMsg(new(wrapperspb.BytesValue)); err != nil {
			return err
		}
	}
}

// A token that is revoked while streams are open ends them, and those of others go on.
func TestStreamsEndWithTheirToken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		revoke func(w *world, p *userauth.Principal)
	}{
		{"the token is revoked", func(w *world, p *userauth.Principal) {
			w.revoked.Add(userauth.Revocation{TokenID: p.TokenID, Until: p.Expires})
		}},
		{"the session is revoked", func(w *world, p *userauth.Principal) {
			w.revoked.Add(userauth.Revocation{Session: p.Session, Until: p.Expires})
		}},
		{"the device is revoked", func(w *world, p *userauth.Principal) {
			w.revoked.Replace([]userauth.Revocation{{CertSerial: p.CertSerial, Until: p.Expires}})
		}},
	} {
		for _, method := range []string{"Watch", "Deaf"} {
			t.Run(c.name+", "+method, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				f := w.serve()
				token, other := w.token(nil), w.issuer.Token(t, w.stolen.Leaf, userauthtest.Claims{"sid": "session-2"})
				p, err := w.verifier.Verify(t.Context(), token, w.phone.Leaf)
				if err != nil {
					t.Fatal(err)
				}
				stream := openStream(t, w.dial(f.grpc, w.phone), method, token)
				others := openStream(t, w.dial(f.grpc, w.stolen), "Watch", other)
				c.revoke(w, p)
				began := time.Now()
				if err := end(stream); status.Code(err) != codes.Unauthenticated || time.Since(began) > soon {
					t.Errorf("after %v: %v", time.Since(began), err)
				}
				if _, err := w.callGRPC(f.grpc, w.phone, "Bearer "+token); err == nil {
					t.Error("a new call is let in")
				}
				w.revoked.Add(userauth.Revocation{Session: "session-2", Until: p.Expires}) // and not before
				if err := end(others); status.Code(err) != codes.Unauthenticated {
					t.Errorf("the other customer's stream: %v", err)
				}
			})
		}
	}
}

func TestAStreamEndsWhenItsTokenExpires(t *testing.T) {
	t.Parallel()
	w := newWorld(t, userauth.WithLeeway(0))
	f := w.serve()
	expires := time.Now().Add(4 * time.Second).Truncate(time.Second)
	stream := openStream(t, w.dial(f.grpc, w.phone), "Watch", w.token(userauthtest.Claims{"iat": from(-time.Minute), "exp": expires.Unix()}))
	err := end(stream)
	if late := time.Since(expires); status.Code(err) != codes.Unauthenticated || late < 0 || late > soon {
		t.Errorf("%v after its token: %v", late, err)
	}
}

// The certificate of a connection is verified when that begins; the stream must not outlive it.
func TestAStreamEndsWhenItsCertificateExpires(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f := w.serve()
	expires := time.Now().Add(4 * time.Second).Truncate(time.Second)
	w.phone = w.devices.Device(t, "dev-phone", userauthtest.Until(expires))
	stream := openStream(t, w.dial(f.grpc, w.phone), "Watch", w.token(nil))
	err := end(stream)
	if late := time.Since(expires); status.Code(err) != codes.Unauthenticated || late < 0 || late > soon {
		t.Errorf("%v after its certificate: %v", late, err)
	}
}

// With keys that say when they change, a stream ends when its key is withdrawn.
func TestAStreamEndsWhenItsKeyIsWithdrawn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	keys := jwks.New(func(context.Context) ([]byte, error) { return w.issuer.JWKS(t), nil }, jwks.WithPause(0))
	w.verifier = userauth.NewVerifier(keys, issuer, audience)
	f := w.serve()
	stream := openStream(t, w.dial(f.grpc, w.phone), "Watch", w.token(nil))
	w.issuer.NewKey(t)
	w.issuer.Withdraw()
	if _, err := w.callGRPC(f.grpc, w.phone, "Bearer "+w.token(nil)); err != nil { // its kid is not known: the keys are fetched
		t.Fatal(err)
	}
	if err := end(stream); status.Code(err) != codes.Unauthenticated {
		t.Error(err)
	}
}

// A hundred open streams are told by one channel, and all have ended within a second.
func TestManyStreamsEndAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f := w.serve()
	conn, token := w.dial(f.grpc, w.phone), w.token(nil)
	var ended sync.WaitGroup
	errs := make(chan error, 100)
	for range cap(errs) {
		s := openStream(t, conn, "Watch", token)
		ended.Go(func() { errs <- end(s) })
	}
	began := time.Now()
	w.revoked.Add(userauth.Revocation{Session: "session-1", Until: time.Now().Add(time.Hour)})
	ended.Wait()
	if took := time.Since(began); took > soon {
		t.Errorf("it took %v", took)
	}
	for range cap(errs) {
		if err := <-errs; status.Code(err) != codes.Unauthenticated {
			t.Error(err)
		}
	}
}

// One that is revoked while it is being let in is let in by nobody: the set is looked at after the channel was taken.
func TestRevocationsThatComeWhileStreamsOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f := w.serve()
	conn := w.dial(f.grpc, w.phone)
	var all sync.WaitGroup
	for i := range 50 {
		session := fmt.Sprint(i)
		token := w.token(userauthtest.Claims{"sid": session})
		ctx := authorized(t, "Bearer "+token)
		all.Go(func() {
			s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/test.Bank/Watch")
			if err != nil {
				t.Error(err)
				return
			}
			if err := end(s); status.Code(err) != codes.Unauthenticated && status.Code(err) != codes.OK {
				t.Error(err)
			}
		})
		all.Go(func() { w.revoked.Add(userauth.Revocation{Session: session, Until: time.Now().Add(time.Hour)}) })
	}
	all.Wait()
}

// An ordinary stream goes on after its token was revoked and has expired: that is why these tests can fail.
func TestAnOrdinaryStreamGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	theirs := w.serveOrdinary()
	expires := time.Now().Add(time.Second).Truncate(time.Second)
	ctx, cancel := context.WithCancel(authorized(t, "Bearer "+w.token(userauthtest.Claims{"jti": "jti-seen", "iat": from(-time.Minute), "exp": expires.Unix()})))
	defer cancel()
	s, err := w.dial(theirs.grpc, w.phone).NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/test.Bank/Watch")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.SendMsg(wrapperspb.String("")), s.CloseSend()); err != nil {
		t.Fatal(err)
	}
	w.revoked.Add(userauth.Revocation{TokenID: "jti-seen", Until: time.Now().Add(time.Hour)})
	over := time.AfterFunc(time.Until(expires)+2*soon, cancel)
	defer over.Stop()
	if err := end(s); status.Code(err) != codes.Canceled {
		t.Errorf("the ordinary stream ended: %v", err)
	}
}

// What has gone through the outer layer of a process is looked at again, and needs no token.
func TestAPrincipalThatIsThereAlready(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, err := w.verifier.Verify(t.Context(), w.token(nil), w.phone.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	intercept := userauth.UnaryServerInterceptor(w.verifier)
	call := func(ctx context.Context) error {
		_, err := intercept(ctx, nil, &grpc.UnaryServerInfo{}, func(ctx context.Context, _ any) (any, error) { return subject(ctx), nil })
		return err
	}
	if err := call(userauth.NewContext(t.Context(), p)); err != nil {
		t.Error(err)
	}
	w.revoked.Add(userauth.Revocation{TokenID: p.TokenID, Until: p.Expires})
	for _, ctx := range []context.Context{userauth.NewContext(t.Context(), p), userauth.NewContext(t.Context(), nil), t.Context()} {
		if err := call(ctx); !errors.Is(err, userauth.ErrInvalidToken) {
			t.Error(err)
		}
	}
}

// A revoked device is cut where it is connected, over gRPC and HTTP, and gets no new connection.
func TestARevokedDeviceIsCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	following, stop := context.WithCancel(t.Context())
	var follow sync.WaitGroup
	follow.Go(func() { _ = w.conns.Follow(following, w.revoked) })
	defer follow.Wait()
	defer stop()
	hanging := make(chan struct{}, 1)
	address := w.serveHTTP(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		hanging <- struct{}{}
		<-r.Context().Done()
	}))
	f := w.serve()
	stream := openStream(t, w.dial(f.grpc, w.phone), "Watch", w.token(nil))
	others := openStream(t, w.dial(f.grpc, w.stolen), "Watch", w.issuer.Token(t, w.stolen.Leaf, userauthtest.Claims{"sid": "2"}))
	failed := make(chan error, 2)
	for _, protocol := range []string{"h2", "http/1.1"} {
		w.hang(address, protocol, failed)
		<-hanging
	}
	w.revoked.Add(userauth.Revocation{CertSerial: fmt.Sprintf("%x", w.phone.Leaf.SerialNumber), Until: time.Now().Add(time.Hour)})
	began := time.Now()
	if err := end(stream); err == nil || time.Since(began) > soon {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	for range cap(failed) {
		if err := <-failed; err == nil {
			t.Error("a request of the device was answered")
		}
	}
	for time.Since(began) < soon && len(w.conns.Live()) > 1 {
		<-time.After(time.Millisecond)
	}
	if live := w.conns.Live(); len(live) != 1 || !live[0].Cert.Equal(w.stolen.Leaf) {
		t.Errorf("%d connections are open", len(live))
	}
	dialer := &tls.Dialer{Config: w.clientTLS(w.phone)}
	if conn, err := dialer.DialContext(t.Context(), "tcp", address); err == nil {
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("a new connection is let in")
		}
		_ = conn.Close()
	}
	w.conns.Cut(fmt.Sprintf("%x", w.stolen.Leaf.SerialNumber))
	if err := end(others); status.Code(err) != codes.Unavailable {
		t.Errorf("the other device: %v", err)
	}
}

// hang makes a request of the phone's that is not answered, and sends how it ended.
func (w *world) hang(address, protocol string, ended chan<- error) {
	w.t.Helper()
	config := w.clientTLS(w.phone)
	config.NextProtos = []string{protocol}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: protocol == "h2"}
	w.t.Cleanup(transport.CloseIdleConnections)
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "https://"+address, http.NoBody)
	if err != nil {
		w.t.Fatal(err)
	}
	go func() {
		res, err := transport.RoundTrip(req)
		if err == nil {
			_ = res.Body.Close()
		}
		ended <- err
	}()
}
