// Package chain says how the records of an audit trail are linked, and checks that a trail is as it was stored.
//
// Each record has a hash over the hash of the record before it and all that is stored of itself, its position included:
//
//	hash(0) = 32 zero bytes
//	hash(n) = SHA-256(0x01 ‖ hash(n-1) ‖ record n)
//
// Record n is every field of mesh.audit.v1.StoredRecord but hash, in the order of the field numbers, and likewise of what is in it: a
// number is 8 bytes, the most significant one first, two's complement; a text is the number of its bytes and then the bytes; a time is 0x01,
// the seconds and the nanoseconds as numbers, or 0x00 when there is none; the event is the number of its field in one byte and then its
// fields, or 0x00 when there is none. So no two records have the same encoding. The first byte of all is the version: another
// encoding gets another one.
//
// The subject and the transaction of a decision came to the contract when there were trails already, whose heads are kept. Only a decision that has one of them has these
// two fields in its encoding, and 0x02 is added to its first byte: the hash of every other record is what it always was, and none of these has the hash of one of those.
// A program from before that takes a record with one of them for a changed one.
//
// A trail may begin with records that were stored before there was a chain. They have no hash, but they count: theirs is computed in the
// same way with 0x00 for the first byte, so that the first record with a hash seals all before it. That taking the hashes away does not
// make a record one of these is what the byte is for.
//
// A chain shows that something was changed to whoever knows a Head that it had: who can write all of the file can compute all of the
// chain anew.
package chain

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// Hash is the hash of a record. The zero value is what the first record of a trail follows.
type Hash [sha256.Size]byte

// The first byte of what is hashed.
const (
	versionUnchained = 0x00
	versionChained   = 0x01
	// withUser is added to either for a decision with a subject or a transaction.
	withUser = 0x02
)

// Next returns the hash of a record that follows one with the hash previous. It is safe for concurrent use.
func Next(previous Hash, r *auditv1.StoredRecord) Hash {
	return link(versionChained, previous, r.GetPosition(), r)
}

// Seal is Next for a record from before there was a chain, which is stored without its hash. It is safe for concurrent use.
func Seal(previous Hash, r *auditv1.StoredRecord) Hash {
	return link(versionUnchained, previous, r.GetPosition(), r)
}

// link returns the hash that r has at a position.
func link(version byte, previous Hash, position int64, r *auditv1.StoredRecord) Hash {
	var room [1024]byte // on the stack; longer records are few
	if forUser(r.GetDecision()) {
		version |= withUser
	}
	b := append(room[:0], version)
	b = append(b, previous[:]...)
	b = number(b, position)
	b = text(b, r.GetServerId())
	b = moment(b, r.GetStoreTime())
	switch event := r.GetEvent().(type) {
	case *auditv1.StoredRecord_Decision:
		b = decision(append(b, 4), event.Decision)
	case *auditv1.StoredRecord_Gap:
		b = number(append(b, 5), event.Gap.GetLostCount())
		b = moment(b, event.Gap.GetStartTime())
		b = moment(b, event.Gap.GetEndTime())
	default:
		b = append(b, 0)
	}
	b = text(b, r.GetRunId())
	b = number(b, r.GetSequence())
	return sha256.Sum256(b)
}

func decision(b []byte, d *auditv1.Decision) []byte {
	b = text(b, d.GetDecisionId())
	b = moment(b, d.GetDecideTime())
	b = text(b, d.GetServerId())
	b = text(b, d.GetPeerId())
	b = text(b, d.GetPeerSerial())
	b = text(b, d.GetMethod())
	b = number(b, int64(d.GetVerdict()))
	b = text(b, d.GetRule())
	b = text(b, d.GetReason())
	b = text(b, d.GetPolicyVersion())
	b = text(b, d.GetTraceId())
	b = number(b, int64(d.GetShadowVerdict()))
	b = text(b, d.GetShadowRule())
	if !forUser(d) {
		return b
	}
	b = text(b, d.GetSubject())
	return text(b, d.GetTransactionId())
}

// forUser reports whether a decision has what came to the contract later.
func forUser(d *auditv1.Decision) bool { return d.GetSubject() != "" || d.GetTransactionId() != "" }

func number(b []byte, n int64) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(n)) //nolint:gosec // G115: two's complement, as the package comment has it
}

func text(b []byte, s string) []byte { return append(number(b, int64(len(s))), s...) }

func moment(b []byte, t *timestamppb.Timestamp) []byte {
	if t == nil {
		return append(b, 0)
	}
	return number(number(append(b, 1), t.GetSeconds()), int64(t.GetNanos()))
}

// Head is where a trail ended: the position and the hash of its last record. Who keeps one can tell later whether anything up to it was
// changed. The zero value is the head of an empty trail.
type Head struct {
	Position int64
	Hash     Hash
}

// String returns POSITION:HASH, the hash in hexadecimal.
func (h Head) String() string { return fmt.Sprintf("%d:%x", h.Position, h.Hash) }

// ParseHead reads what String wrote.
func ParseHead(s string) (Head, error) {
	const right = "right would be POSITION:HASH as verify prints it, such as 1234: and 64 hexadecimal digits"
	position, digits, ok := strings.Cut(s, ":")
	if !ok {
		return Head{}, fmt.Errorf("%q is no head: there is no colon in it; %s", s, right)
	}
	n, err := strconv.ParseInt(position, 10, 64)
	if err != nil || n < 0 {
		return Head{}, fmt.Errorf("%q is no head: %q is no position; %s", s, position, right)
	}
	raw, err := hex.DecodeString(digits)
	if err == nil && len(raw) != sha256.Size {
		err = errors.New("it has " + strconv.Itoa(len(digits)) + " digits")
	}
	if err != nil {
		return Head{}, fmt.Errorf("%q is no head: its hash: %w; %s", s, err, right)
	}
	return Head{Position: n, Hash: Hash(raw)}, nil
}
