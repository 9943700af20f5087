package policy_test

import (
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/policy"
	_ "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1" // conditions are over the messages that are linked in
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

const dialText = `trust_domain: bank.test
revoked:
  - id: /stolen
services:
  bank.accounts.v1.AccountService:
    served_by: [/accounts]
    methods:
      CloseAccount:
        allow: []
      GetAccount:
        deny:
          - peer: /payments/canary
        allow:
          - peer: /payments
          - peer: /payments/**
          - peer: /stolen
          - peer: /tester
            shadow: true
      ListAccounts:
        allow:
          - peer: /reader
            when: request.page_size <= 10
          - peer: /nosy
            when: peer.path == "/else"
          - peer: /half
        deny:
          - peer: /half
            when: request.page_size > 10
          - peer: /barred
            when: request.page_size > 10
  bank.ledger.v1.LedgerService:
    served_by: [/ledger/**, "spiffe://partner.test/books", /both]
    methods:
      GetBalance:
        allow:
          - peer: /gateway
          - peer: spiffe://partner.test/**
  bank.risk.v1.RiskService:
    methods:
      AssessPayment:
        allow:
          - peer: /**
  some.other.v1.Service:
    served_by: [/other, /both]
    methods:
      Get:
        allow:
          - peer: /conditional
            when: request.name == peer.path
          - peer: /mostly
        deny:
          - peer: /mostly
            when: request.name == "secret"
`

func TestDials(t *testing.T) {
	t.Parallel()
	parsed := mustParse(t, dialText)
	const nothing = "p.yaml: no rule lets "
	for name, test := range map[string]struct{ client, server, want string }{
		"a client that a rule names dials the server":                     {"/payments", "/accounts", ""},
		"a client in a subtree that a rule names dials the server":        {"/payments/x", "/accounts", ""},
		"a client that a condition over the request may let in dials":     {"/reader", "/accounts", ""},
		"a client that a condition over the request may keep out dials":   {"/half", "/accounts", ""},
		"a client that a condition over itself keeps out does not dial":   {"/nosy", "/accounts", nothing + "/nosy call anything of what /accounts serves, such as bank.accounts.v1.AccountService"},
		"a client that is denied does not dial":                           {"/payments/canary", "/accounts", nothing + "/payments/canary call"},
		"a client that may only be denied does not dial":                  {"/barred", "/accounts", nothing + "/barred call"},
		"a client that only a rule in shadow lets in does not dial":       {"/tester", "/accounts", nothing + "/tester call"},
		"a client that is revoked does not dial":                          {"/stolen", "/accounts", nothing + "/stolen call"},
		"a client that no rule names does not dial":                       {"/risk", "/accounts", nothing + "/risk call"},
		"a client that may call another server does not dial this one":    {"/payments", "/ledger/0", nothing + "/payments call anything of what /ledger/0 serves, such as bank.ledger.v1.LedgerService"},
		"a client that looks like one does not dial (ATTACKS 13)":         {"/payments-evil", "/accounts", nothing + "/payments-evil call"},
		"a client of another domain dials the server that it may call":    {"spiffe://partner.test/x", "/ledger/0", ""},
		"a client of another domain does not dial another":                {"spiffe://partner.test/x", "/accounts", nothing + "spiffe://partner.test/x call anything of what /accounts serves"},
		"a server is dialled that is in a subtree of served_by":           {"/gateway", "/ledger/0", ""},
		"a server is dialled that is of another domain":                   {"/gateway", "spiffe://partner.test/books", ""},
		"a server that serves two services is dialled for the first":      {"/gateway", "/both", ""},
		"a server that serves two services is dialled for the second":     {"/mostly", "/both", ""},
		"a server that serves nothing is not dialled":                     {"/payments", "/payments", "p.yaml: no service is served_by /payments"},
		"a server that serves nothing is not dialled by whom all allow":   {"/gateway", "/risk", "p.yaml: no service is served_by /risk"},
		"a server of another domain that serves nothing is written whole": {"/gateway", "spiffe://evil.test/ledger/0", "p.yaml: no service is served_by spiffe://evil.test/ledger/0"},
		"a server that looks like one is not dialled (ATTACKS 13)":        {"/payments", "/accounts-evil", "p.yaml: no service is served_by /accounts-evil"},
		"the root of a subtree of servers is not dialled":                 {"/gateway", "/ledger", "p.yaml: no service is served_by /ledger"},
		"a condition over messages that are not known here may let in":    {"/conditional", "/other", ""},
		"a condition over messages that are not known here may keep out":  {"/mostly", "/other", ""},
		"nobody dials nobody":    {"", "", "p.yaml: no service is served_by nobody"},
		"nobody dials no server": {"", "/accounts", nothing + "nobody call anything"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := parsed.Dials(workload(t, test.client), workload(t, test.server))
			if (err == nil) != (test.want == "") || err != nil && !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("Dials(%s, %s) = %v, want %q", test.client, test.server, err, test.want)
			}
		})
	}
}

// The rules for health are for all servers. One that lets a client watch them does not let it dial those that it calls nothing of.
func TestToWatchHealthIsNoReasonToDial(t *testing.T) {
	t.Parallel()
	parsed := mustParse(t, `trust_domain: bank.test
services:
  bank.risk.v1.RiskService:
    served_by: [/risk]
    methods:
      AssessPayment: {allow: [{peer: /payments}]}
  grpc.health.v1.Health:
    served_by: [/risk]
    methods:
      Watch: {allow: [{peer: /payments}, {peer: /gateway}, {peer: /operator}]}
      Check: {allow: [{peer: /operator}]}
`)
	for client, want := range map[string]bool{"/payments": true, "/gateway": false, "/operator": true} {
		if err := parsed.Dials(workload(t, client), workload(t, "/risk")); (err == nil) != want {
			t.Errorf("Dials(%s, /risk) = %v", client, err)
		}
		if !parsed.Lists(workload(t, client), workload(t, "/risk"), policy.WatchHealth) {
			t.Errorf("%s may not watch", client)
		}
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	parsed := mustParse(t, dialText)
	const get, list = "/bank.accounts.v1.AccountService/GetAccount", "/bank.accounts.v1.AccountService/ListAccounts"
	for name, test := range map[string]struct {
		client, server, method string
		want                   bool
	}{
		"what a rule lets the client call":                     {"/payments", "/accounts", get, true},
		"what a condition over the request may let it call":    {"/reader", "/accounts", list, true},
		"what a rule of another service lets it call":          {"/gateway", "/ledger/0", "/bank.ledger.v1.LedgerService/GetBalance", true},
		"another method of a service that it may call":         {"/payments", "/accounts", list, false},
		"what nobody may call":                                 {"/payments", "/accounts", "/bank.accounts.v1.AccountService/CloseAccount", false},
		"what it is denied":                                    {"/payments/canary", "/accounts", get, false},
		"what only a rule in shadow lets it call":              {"/tester", "/accounts", get, false},
		"what it may call, at a server that does not serve it": {"/payments", "/ledger/0", get, false},
		"what all may call, and nobody is said to serve":       {"/payments", "/risk", "/bank.risk.v1.RiskService/AssessPayment", false},
		"a method that the policy does not have":               {"/payments", "/accounts", "/bank.accounts.v1.AccountService/Nothing", false},
		"a client that is revoked":                             {"/stolen", "/accounts", get, false},
		"nobody":                                               {"", "/accounts", get, false},
	} {
		if got := parsed.Lists(workload(t, test.client), workload(t, test.server), test.method); got != test.want {
			t.Errorf("%s: Lists(%s, %s, %s) = %t", name, test.client, test.server, test.method, got)
		}
	}
	if (*policy.Policy)(nil).Lists(workload(t, "/payments"), workload(t, "/accounts"), get) {
		t.Error("no policy lists something")
	}
}

// A condition whose messages are not known depends on the request as long as there is none, and cannot be evaluated for one that there is.
func TestAConditionOverUnknownMessagesLetsNobodyIn(t *testing.T) {
	t.Parallel()
	parsed := mustParse(t, dialText)
	for _, peer := range []string{"/conditional", "/mostly"} {
		call := callOf("/some.other.v1.Service/Get", workload(t, peer))
		if got := parsed.Decide(call); got.Allowed || !got.Undecided {
			t.Errorf("without a request %s gets %+v, want undecided", peer, got)
		}
		call.Request = &ledgerv1.GetBalanceRequest{}
		if got := parsed.Decide(call); got.Allowed || got.Undecided || !strings.Contains(got.Reason, "the method's messages are not known to this process") {
			t.Errorf("with a request %s gets %+v, want denied", peer, got)
		}
	}
}

// workload is an ID that is written as in a rule; the empty text is nobody.
func workload(t testing.TB, text string) spiffeid.ID {
	t.Helper()
	if text == "" {
		return spiffeid.ID{}
	}
	id, one := mustPattern(t, text).ID()
	if !one {
		t.Fatalf("%s is no workload", text)
	}
	return id
}
