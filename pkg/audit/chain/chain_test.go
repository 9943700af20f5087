package chain_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/audit/chain"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

const (
	ledger = "spiffe://bank.test/ledger"
	risk   = "spiffe://bank.test/risk"
	run1   = "11111111111111111111111111111111"
	run2   = "22222222222222222222222222222222"
)

func at(n int64) *timestamppb.Timestamp {
	return timestamppb.New(time.Date(2026, 11, 5, 9, 30, 0, 123456000, time.UTC).Add(time.Duration(n) * time.Second))
}

// decision is a record in which every field is set.
func decision(server, run string, sequence int64) *auditv1.StoredRecord {
	return &auditv1.StoredRecord{ServerId: server, RunId: run, Sequence: sequence, Event: &auditv1.StoredRecord_Decision{Decision: &auditv1.Decision{
		DecisionId: fmt.Sprintf("%032x", sequence), DecideTime: at(sequence), ServerId: server, PeerId: "spiffe://bank.test/payments", PeerSerial: "1f",
		Method: "/bank.ledger.v1.LedgerService/PostTransfer", Verdict: auditv1.Verdict_VERDICT_DENIED, Rule: "bank.yaml:101",
		Reason: "no rule names this peer", PolicyVersion: "0123456789abcdef", TraceId: "4b000000000000000000000000000036",
		ShadowVerdict: auditv1.Verdict_VERDICT_ALLOWED, ShadowRule: "bank.yaml:104",
		Subject: "alice", TransactionId: "txn-1",
	}}}
}

// forNobody is decision as it was before users were recorded, and still is for a call without one.
func forNobody(server, run string, sequence int64) *auditv1.StoredRecord {
	r := decision(server, run, sequence)
	r.GetDecision().Subject, r.GetDecision().TransactionId = "", ""
	return r
}

func gap(server, run string, sequence, lost int64) *auditv1.StoredRecord {
	return &auditv1.StoredRecord{ServerId: server, RunId: run, Sequence: sequence, Event: &auditv1.StoredRecord_Gap{
		Gap: &auditv1.Gap{LostCount: lost, StartTime: at(sequence), EndTime: at(sequence + 1)},
	}}
}

// Who kept a head keeps it for years: what is hashed must not drift.
func TestTheHashIsWhatThePackageSays(t *testing.T) {
	t.Parallel()
	one, two, three := forNobody(ledger, run1, 1), gap(ledger, run1, 2, 7), decision(ledger, run1, 1)
	one.Position, one.StoreTime, two.Position, two.StoreTime, three.Position, three.StoreTime = 1, at(50), 2, at(51), 1, at(50)
	first := chain.Next(chain.Hash{}, one)
	for name, test := range map[string]struct{ got, want string }{
		"a decision":           {fmt.Sprintf("%x", first), goldenDecision},
		"a gap after it":       {fmt.Sprintf("%x", chain.Next(first, two)), goldenGap},
		"one before the chain": {fmt.Sprintf("%x", chain.Seal(chain.Hash{}, one)), goldenSeal},
		"one for a user":       {fmt.Sprintf("%x", chain.Next(chain.Hash{}, three)), goldenUser},
	} {
		if test.got != test.want {
			t.Errorf("%s: hash %s, want %s", name, test.got, test.want)
		}
	}
}

// A field that is added to the contract and not to the hash could be changed unnoticed.
func TestEveryFieldIsInTheHash(t *testing.T) {
	t.Parallel()
	for name, whole := range map[string]*auditv1.StoredRecord{"decision": decision(ledger, run1, 3), "gap": gap(ledger, run1, 3, 5)} {
		whole.Position, whole.StoreTime = 9, at(60)
		before := chain.Next(chain.Hash{1}, whole)
		changed := 0
		var walk func(path string, at func(*auditv1.StoredRecord) protoreflect.Message)
		walk = func(path string, at func(*auditv1.StoredRecord) protoreflect.Message) {
			m := at(whole)
			for i := range m.Descriptor().Fields().Len() {
				field := m.Descriptor().Fields().Get(i)
				if path == "" && field.Name() == "hash" || field.ContainingOneof() != nil && !m.Has(field) {
					continue
				}
				if !m.Has(field) {
					t.Errorf("%s: %s%s is not set in the test", name, path, field.Name())
				}
				where := fmt.Sprintf("%s%s", path, field.Name())
				if field.Message() != nil {
					walk(where+".", func(r *auditv1.StoredRecord) protoreflect.Message { return at(r).Mutable(field).Message() })
				}
				for what, change := range map[string]func(protoreflect.Message){
					"cleared": func(m protoreflect.Message) { m.Clear(field) },
					"changed": func(m protoreflect.Message) { alter(m, field) },
				} {
					copied := proto.CloneOf(whole)
					change(at(copied))
					if changed++; chain.Next(chain.Hash{1}, copied) == before {
						t.Errorf("%s: %s was %s and the hash stays", name, where, what)
					}
				}
			}
		}
		walk("", func(r *auditv1.StoredRecord) protoreflect.Message { return r.ProtoReflect() })
		if changed < 20 {
			t.Errorf("%s: %d changes: the walk did not reach what it is for", name, changed)
		}
	}
}

// alter gives a field another value of its kind.
func alter(m protoreflect.Message, field protoreflect.FieldDescriptor) {
	switch field.Kind() {
	case protoreflect.StringKind:
		m.Set(field, protoreflect.ValueOfString(m.Get(field).String()+"x"))
	case protoreflect.Int64Kind:
		m.Set(field, protoreflect.ValueOfInt64(m.Get(field).Int()+1))
	case protoreflect.Int32Kind:
		m.Set(field, protoreflect.ValueOfInt32(int32(m.Get(field).Int())+1))
	case protoreflect.EnumKind:
		m.Set(field, protoreflect.ValueOfEnum(m.Get(field).Enum()%2+1))
	case protoreflect.MessageKind:
		m.Clear(field)
	default:
		panic(fmt.Sprintf("no other value for %v", field))
	}
}

func TestWhatBelongsToOneFieldCannotPassForAnothers(t *testing.T) {
	t.Parallel()
	var hashes []chain.Hash
	for _, parts := range [][2]string{{"ab", "c"}, {"a", "bc"}, {"abc", ""}, {"", "abc"}} {
		one, two := decision(ledger, run1, 1), decision(ledger, run1, 1)
		one.GetDecision().PeerId, one.GetDecision().PeerSerial = parts[0], parts[1]
		two.GetDecision().Subject, two.GetDecision().TransactionId = parts[0], parts[1]
		for _, r := range []*auditv1.StoredRecord{one, two} {
			hashes = append(hashes, chain.Next(chain.Hash{}, r), chain.Seal(chain.Hash{}, r), chain.Next(chain.Hash{1}, r))
		}
	}
	nobody := forNobody(ledger, run1, 1)
	hashes = append(hashes, chain.Next(chain.Hash{}, nobody), chain.Seal(chain.Hash{}, nobody), chain.Next(chain.Hash{1}, nobody))
	// What is behind the shadow rule of a decision for nobody is its run: another's user must not pass for it.
	for _, r := range []*auditv1.StoredRecord{decision(ledger, "", 1), forNobody(ledger, "alice", 5)} {
		hashes = append(hashes, chain.Next(chain.Hash{}, r), chain.Seal(chain.Hash{}, r))
	}
	seen := make(map[chain.Hash]bool)
	for i, h := range hashes {
		if seen[h] {
			t.Errorf("hash %d is another one's too", i)
		}
		seen[h] = true
	}
}

func TestAHashDoesNotAllocate(t *testing.T) {
	r := decision(ledger, run1, 1)
	if n := testing.AllocsPerRun(100, func() { chain.Next(chain.Hash{}, r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestAHeadIsReadAsItIsWritten(t *testing.T) {
	t.Parallel()
	want := chain.Head{Position: 1234, Hash: chain.Hash{0xab, 31: 0x01}}
	if got, err := chain.ParseHead(want.String()); err != nil || got != want {
		t.Errorf("%v is read as %v, %v", want, got, err)
	}
	digits := strings.Repeat("ab", 32)
	for name, test := range map[string]struct{ text, want string }{
		"nothing":             {"", "there is no colon in it"},
		"a position alone":    {"12", "there is no colon in it"},
		"a hash alone":        {digits, "there is no colon in it"},
		"a position in words": {"last:" + digits, `"last" is no position`},
		"one below zero":      {"-1:" + digits, `"-1" is no position`},
		"too few digits":      {"12:abcd", "it has 4 digits"},
		"too many":            {"12:" + digits + "00", "it has 66 digits"},
		"no digits":           {"12:" + strings.Repeat("xy", 32), "its hash: encoding/hex"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := chain.ParseHead(test.text)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "right would be POSITION:HASH") {
				t.Errorf("the error is %v, want %q in it and what would be right", err, test.want)
			}
		})
	}
}

func BenchmarkNext(b *testing.B) {
	r := decision(ledger, run1, 1)
	var h chain.Hash
	for b.Loop() {
		h = chain.Next(h, r)
	}
}

const (
	goldenDecision = "dc40b0d02bf72be7485bc6a30f0ed440097d6861735f9411ff514b380d466cdd"
	goldenGap      = "bfafa6bfea3e0354c09705315be99119a3d52ad5024dc6124b3c86a4ca8db11a"
	goldenUser     = "f56bc553969cf7d830bd5eab2db1146e087916074122b27a0e726da0f1fd498b"
	goldenSeal     = "fcfabc654c17c0eb59d4aa93ad8193731ca354e600ebc24f16e686e4c36291d0"
)
