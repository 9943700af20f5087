package e2e

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
)

// outcome is how far somebody got at the edge.
type outcome string

const (
	letInside outcome = "let in"
	// notBelieved is refused for the token, over a connection that was made.
	notBelieved outcome = "refused for the token"
	// shutOut is before anything was asked.
	shutOut outcome = "shut out in the handshake"
)

// door is one of the two ways in for customers.
type door struct {
	name string
	// list asks for the customer's accounts, with these values of authorization and nothing else. What was said is what the one who asked was told.
	list func(t *testing.T, edge bank.Edge, config *tls.Config, authorization []string) (got outcome, said string)
}

func doors() []door { return []door{{"gRPC", listByGRPC}, {"REST", listByREST}} }

func listByGRPC(t *testing.T, edge bank.Edge, config *tls.Config, authorization []string) (got outcome, said string) {
	t.Helper()
	conn := bank.Dial(t, edge.GRPC, credentials.NewTLS(config))
	ctx := metadata.NewOutgoingContext(t.Context(), metadata.MD{"authorization": authorization})
	_, err := mobilev1.NewMobileBankServiceClient(conn).ListAccounts(ctx, &mobilev1.ListAccountsRequest{})
	st := status.Convert(err)
	switch code := st.Code(); {
	case code == codes.OK:
		return letInside, ""
	case code == codes.Unavailable:
		return shutOut, st.Message()
	case code == codes.Unauthenticated && reasonOf(err) == "INVALID_TOKEN":
		return notBelieved, st.Message()
	}
	return outcome(fmt.Sprintf("answered %v", err)), st.Message()
}

// reasonOf returns the reason in an error's details.
func reasonOf(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == "countersign" {
			return info.GetReason()
		}
	}
	return ""
}

func listByREST(t *testing.T, edge bank.Edge, config *tls.Config, authorization []string) (got outcome, said string) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+edge.REST+"/v1/accounts", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range authorization {
		request.Header.Add("Authorization", value)
	}
	response, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Do(request)
	if err != nil {
		return shutOut, err.Error()
	}
	problem, err := problemOf(response)
	switch {
	case response.StatusCode == http.StatusOK:
		return letInside, ""
	case err != nil:
		return outcome(fmt.Sprintf("answered %s: %v", response.Status, err)), ""
	}
	challenge := response.Header.Values("WWW-Authenticate")
	if response.StatusCode == http.StatusUnauthorized && len(challenge) == 1 && strings.HasPrefix(challenge[0], "Bearer") {
		return notBelieved, problem.Title + ": " + problem.Detail
	}
	return outcome(fmt.Sprintf("answered %s %q: %v", response.Status, challenge, problem)), problem.Detail
}

// problem is an answer that is no success (RFC 9457 §3.1).
type problem struct {
	Type, Title, Detail string
	Status              int
}

// errCutOff means that the connection was cut in the middle of an answer.
var errCutOff = errors.New("the answer is cut off")

// problemOf reads an answer to its end.
func problemOf(response *http.Response) (problem, error) {
	var p problem
	body, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return p, errors.Join(errCutOff, err)
	}
	if response.StatusCode < http.StatusBadRequest {
		return p, nil
	}
	if got := response.Header.Get("Content-Type"); got != "application/problem+json" {
		return p, fmt.Errorf("the content type is %q: %s", got, body)
	}
	if err := json.Unmarshal(body, &p); err != nil {
		return p, fmt.Errorf("%w: %s", err, body)
	}
	if p.Status != response.StatusCode {
		return p, fmt.Errorf("the status is %d, and the problem's %d", response.StatusCode, p.Status)
	}
	return p, nil
}

// attempt is one way of getting at a customer's accounts.
type attempt struct {
	name          string
	config        *tls.Config
	authorization []string
	want          outcome
}

// tryAll makes each attempt at both doors. Whatever is wrong with a token, who brought it is told the same.
func tryAll(t *testing.T, edge bank.Edge, all []attempt) {
	t.Helper()
	for _, door := range doors() {
		told := make(map[string]string)
		for _, a := range all {
			got, said := door.list(t, edge, a.config, a.authorization)
			if got != a.want {
				t.Errorf("%s, %s: want %s, got %s (%s)", door.name, a.name, a.want, got, said)
			}
			if slices.ContainsFunc(a.authorization, func(v string) bool { return len(v) > 20 && strings.Contains(said, v[len("Bearer "):]) }) {
				t.Errorf("%s, %s: the token is in the answer", door.name, a.name)
			}
			if got == notBelieved && len(a.authorization) > 0 {
				told[said] = a.name
			}
		}
		if len(told) > 1 {
			t.Errorf("%s: who brings a token that is not good learns from the answer what is not: %v", door.name, told)
		}
	}
}
