package authz_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// revoking is policyText with these entries under revoked, the first of them in line 16.
func revoking(entries ...string) string {
	text := policyText + "revoked:\n"
	for _, e := range entries {
		text += "  - " + e + "\n"
	}
	return text
}

func TestParseRefusesARevocation(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ entry, want string }{
		"of an ID that is none":                {"id: spiffe://bank.test:80/risk", "p.yaml:16:5: id: no SPIFFE ID"},
		"of an ID with a percent sign":         {"id: /ri%73k", "p.yaml:16:5: id: "},
		"of an ID with a trailing slash":       {"id: /risk/", "p.yaml:16:5: id: "},
		"of an ID with a dot segment":          {"id: /a/../risk", "p.yaml:16:5: id: "},
		"of an ID of another scheme":           {"id: https://bank.test/risk", "p.yaml:16:9"},
		"of an ID without a path":              {"id: spiffe://bank.test", "p.yaml:16:5: id: names a trust domain and no workload"},
		"of an empty path":                     {"id: /", "p.yaml:16:9"},
		"of a serial that is no hexadecimal":   {`serial: "4g"`, "p.yaml:16:13"},
		"of a serial with a prefix":            {`serial: "0x4f"`, "p.yaml:16:13"},
		"of a serial of nothing but colons":    {`serial: "::"`, `p.yaml:16:5: serial: "::" is no serial number`},
		"of the serial 0":                      {`serial: "00"`, `p.yaml:16:5: serial: "00" is no serial number`},
		"of an authority of half a byte":       {`authority: "9c1"`, `p.yaml:16:5: authority: "9c1" is no subject key ID`},
		"of an authority that is no key ID":    {`authority: "the old one"`, "p.yaml:16:16"},
		"of an ID and a serial at once":        {"{id: /risk, serial: \"4f\"}", "p.yaml:16"},
		"of nothing":                           {"why: nobody knows", "p.yaml:16"},
		"with an unknown key":                  {"{id: /risk, until: tomorrow}", `p.yaml:16:17: unknown field "until"`},
		"with a key twice":                     {"{id: /risk, id: /payments}", `p.yaml:16:17: the key "id" stands already in line 16`},
		"with a reason as long as a book":      {"{id: /risk, why: " + strings.Repeat("x", 501) + "}", "p.yaml:16:22"},
		"that is a text alone":                 {"/risk", "p.yaml:16:5"},
		"beside a good one, and says which is": {"id: /good\n  - id: /bad/", "p.yaml:17:5: id: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			policy, err := policy.Parse("p.yaml", []byte(revoking(test.entry)))
			if err == nil {
				t.Fatalf("it was accepted: %+v", policy.Revocations())
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is\n%v\nand does not contain\n%s", err, test.want)
			}
		})
	}
}

func TestParseReportsEveryBadRevocation(t *testing.T) {
	t.Parallel()
	_, err := policy.Parse("p.yaml", []byte(revoking("id: /a/", `serial: "0"`, `authority: "9c1"`)))
	for _, want := range []string{"p.yaml:16:5: id: ", "p.yaml:17:5: serial: ", "p.yaml:18:5: authority: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is\n%v\nand does not contain\n%s", err, want)
		}
	}
}

func TestARevocationNamesOnePeerHoweverItIsWritten(t *testing.T) {
	t.Parallel()
	const other = "spiffe://bank.test/other"
	for name, test := range map[string]struct {
		entry, id, serial string
		revoked           bool
	}{
		"a short ID is of the policy's trust domain":     {"id: /risk", risk.String(), "1", true},
		"a short ID is of no other trust domain":         {"id: /risk", "spiffe://partner.test/risk", "1", false},
		"a whole ID of the own trust domain":             {"id: spiffe://bank.test/risk", risk.String(), "1", true},
		"a whole ID of another trust domain":             {"id: spiffe://partner.test/risk", "spiffe://partner.test/risk", "1", true},
		"a whole ID of another is not the short one":     {"id: spiffe://partner.test/risk", risk.String(), "1", false},
		"a name that starts alike is another":            {"id: /risk", "spiffe://bank.test/risk-2", "1", false},
		"a name beneath is another":                      {"id: /risk", "spiffe://bank.test/risk/2", "1", false},
		"a serial number":                                {`serial: "4f3a19"`, other, "4f3a19", true},
		"a serial number with colons and in upper case":  {`serial: "4F:3A:19"`, other, "4f3a19", true},
		"a serial number with zeros before it":           {`serial: "00:4f:3a:19"`, other, "4f3a19", true},
		"a serial number is whole":                       {`serial: "4f3a19"`, other, "4f3a1", false},
		"a serial number of digits alone, without marks": {"serial: 123456", other, "123456", true},
		"a serial number that YAML takes for a float":    {"serial: 1e5", other, "1e5", true},
		"a serial number that YAML takes for octal":      {"serial: 0123", other, "123", true},
		"an authority's key ID is no serial number":      {`authority: "4f3a19"`, other, "4f3a19", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := mustParse(t, revoking(test.entry)).Revocations().Check(&identity.Peer{ID: spiffeid.RequireFromString(test.id), Serial: test.serial})
			if (err != nil) != test.revoked {
				t.Fatalf("Check = %v", err)
			}
			if test.revoked {
				if r, ok := errors.AsType[*identity.RevokedError](err); !ok || r.Entry != "p.yaml:16" {
					t.Errorf("Check = %#v", err)
				}
			}
		})
	}
	if err := mustParse(t, policyText).Revocations().Check(&identity.Peer{ID: risk}); err != nil {
		t.Errorf("a policy without a list revokes %v", err)
	}
	if err := mustParse(t, policyText+"revoked: []\n").Revocations().Check(&identity.Peer{ID: risk}); err != nil {
		t.Errorf("an empty list revokes %v", err)
	}
}

func TestARevocationMakesANewVersion(t *testing.T) {
	t.Parallel()
	versions := make(map[string]string)
	for _, text := range []string{policyText, revoking("id: /risk"), revoking("id: /gateway"), revoking("id: /risk", `serial: "4f"`)} {
		version := mustParse(t, text).Version()
		if first, ok := versions[version]; ok {
			t.Errorf("the version %s is of both\n%s\nand\n%s", version, first, text)
		}
		versions[version] = text
	}
}

// withSerial is the context of a call by a peer with a serial number.
func withSerial(id spiffeid.ID, serial string) context.Context {
	return peer.NewContext(context.Background(), &peer.Peer{AuthInfo: authInfo{peer: &identity.Peer{ID: id, Serial: serial}}})
}

// ATTACKS 37: who is revoked is denied from the moment that the policy is in force, though its connection lives on, and is not told why.
func TestARevokedPeerIsDeniedWhateverTheRulesSay(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ entry, reason string }{
		"by its SPIFFE ID":     {"id: /payments", `the SPIFFE ID "spiffe://bank.test/payments" is revoked (p.yaml:16)`},
		"by its serial number": {`serial: "C0:FF:EE"`, "the SVID with the serial number c0ffee is revoked (p.yaml:16)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			guard, source, recorded, out := guarded(t, policyText)
			if reached, err := call(callFrom(payments), guard, post); err != nil || !reached {
				t.Fatalf("before it is revoked: %v", err)
			}
			policy := mustParse(t, revoking(test.entry))
			source.replace(policy, false)
			reached, err := call(callFrom(payments), guard, post)
			st := status.Convert(err)
			if reached || st.Code() != codes.PermissionDenied || st.Message() != "permission denied" {
				t.Fatalf("reached %v, the caller got %v", reached, err)
			}
			if admitted := guard.Admit(callFrom(payments), post); status.Code(admitted) != codes.PermissionDenied {
				t.Errorf("by its headers: %v", admitted)
			}
			d := recorded.list[1]
			if d.Allowed || d.Rule != "" || d.Reason != test.reason || d.PolicyVersion != policy.Version() {
				t.Errorf("recorded %+v, want the reason %q", d, test.reason)
			}
			info, ok := st.Details()[0].(*errdetails.ErrorInfo)
			if !ok || info.GetMetadata()["decision_id"] != d.ID.String() {
				t.Errorf("the details are %v, want the decision ID %s", st.Details(), d.ID)
			}
			for _, secret := range []string{"revoked", "p.yaml", "16", "c0ffee"} {
				if strings.Contains(strings.ReplaceAll(fmt.Sprint(st.Proto()), d.ID.String(), ""), secret) {
					t.Errorf("the caller is told %q: %v", secret, st.Proto())
				}
			}
			if !strings.Contains(out.String(), "is revoked (p.yaml:16)") {
				t.Errorf("the log does not say why:\n%s", out)
			}
		})
	}
}

func TestARevocationConcernsNobodyElse(t *testing.T) {
	t.Parallel()
	guard, _, _, _ := guarded(t, revoking("id: /gateway", `serial: "beef"`, "id: spiffe://partner.test/payments"))
	if reached, err := call(callFrom(payments), guard, post); err != nil || !reached {
		t.Errorf("payments with another SVID: %v", err)
	}
	if reached, err := call(withSerial(payments, "beef"), guard, post); reached || status.Code(err) != codes.PermissionDenied {
		t.Errorf("payments with the revoked one: %v", err)
	}
}

func TestARevocationThatIsTakenBackIsForgotten(t *testing.T) {
	t.Parallel()
	guard, source, _, _ := guarded(t, revoking("id: /payments"))
	if reached, _ := call(callFrom(payments), guard, post); reached {
		t.Error("a revoked peer reached the handler")
	}
	source.replace(mustParse(t, policyText), false)
	if reached, err := call(callFrom(payments), guard, post); err != nil || !reached {
		t.Errorf("after it was taken back: %v", err)
	}
}

// ATTACKS 37, 45: a stream that is open when its peer is revoked ends, whether it moves or not.
func TestAStreamEndsWhenItsPeerIsRevoked(t *testing.T) {
	t.Parallel()
	for name, entry := range map[string]string{"by its SPIFFE ID": "id: /payments", "by its serial number": "serial: C0FFEE"} {
		t.Run(name+", with the next message", func(t *testing.T) {
			t.Parallel()
			guard, source, _, _ := guarded(t, policyText)
			for _, message := range []func(grpc.ServerStream) error{
				func(ss grpc.ServerStream) error { return ss.RecvMsg(nil) },
				func(ss grpc.ServerStream) error { return ss.SendMsg(nil) },
			} {
				source.replace(mustParse(t, policyText), false)
				err := open(guard, payments, func(ss grpc.ServerStream) error {
					if err := message(ss); err != nil {
						t.Errorf("before it is revoked: %v", err)
					}
					source.replace(mustParse(t, revoking(entry)), false)
					if err := message(ss); status.Code(err) != codes.PermissionDenied {
						t.Errorf("a message after it was revoked: %v", err)
					}
					return nil
				})
				if status.Code(err) != codes.PermissionDenied {
					t.Errorf("the caller got %v", err)
				}
			}
		})
		t.Run(name+", idle", func(t *testing.T) {
			t.Parallel()
			guard, source, recorded, _ := guarded(t, policyText)
			var begin time.Time
			err := open(guard, payments, func(ss grpc.ServerStream) error {
				begin = time.Now()
				source.replace(mustParse(t, revoking(entry)), true)
				select {
				case <-ss.Context().Done():
				case <-time.After(10 * time.Second):
					t.Error("it goes on")
				}
				return context.Cause(ss.Context())
			})
			if took := time.Since(begin); status.Code(err) != codes.PermissionDenied || took > time.Second {
				t.Errorf("the caller got %v, after %v; promised is a second", err, took)
			}
			recorded.mu.Lock()
			defer recorded.mu.Unlock()
			if last := recorded.list[len(recorded.list)-1]; !strings.Contains(last.Reason, "is revoked (p.yaml:16)") {
				t.Errorf("recorded %+v", last)
			}
		})
	}
}

func TestAFileThatIsWatchedBringsItsRevocations(t *testing.T) {
	t.Parallel()
	path, file, out := watched(t, policyText)
	if err := file.Revocations().Check(&identity.Peer{ID: risk}); err != nil {
		t.Fatal(err)
	}
	changed := file.Changed()
	write(t, path, revoking("id: /risk"))
	eventually(t, inForce, "the revocation is in force", func() bool { return file.Revocations().Check(&identity.Peer{ID: risk}) != nil })
	<-changed
	// ATTACKS 50: a list that is broken changes nothing. A revocation must not be lost by somebody's slip.
	write(t, path, revoking("id: /risk", "id: nobody"))
	eventually(t, 5*time.Second, "the failure is reported", func() bool { return file.Status().Failure != nil })
	if file.Revocations().Check(&identity.Peer{ID: risk}) == nil || !strings.Contains(out.String(), "stays in force") {
		t.Errorf("the revocation is lost:\n%s", out)
	}
}

func TestARevocationCostsAnAllowedCallNoAllocation(t *testing.T) {
	guard, _, _, _ := guarded(t, revoking("id: /gateway", `serial: "beef"`, `authority: "9c1d"`))
	ctx := callFrom(payments)
	if allocs := testing.AllocsPerRun(100, func() {
		if err := guard.Admit(ctx, post); err != nil {
			t.Error(err)
		}
	}); allocs != 0 {
		t.Errorf("a call that is let in makes %v allocations, want 0", allocs)
	}
}
