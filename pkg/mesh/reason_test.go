package mesh

import (
	"testing"

	"github.com/countersign-mesh/countersign/pkg/transport"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
)

func TestEachReasonOfACutHasAName(t *testing.T) {
	t.Parallel()
	for given, want := range map[transport.Reason]adminv1.CutReason{
		transport.Expired:     adminv1.CutReason_CUT_REASON_EXPIRED,
		transport.Untrusted:   adminv1.CutReason_CUT_REASON_UNTRUSTED,
		transport.Revoked:     adminv1.CutReason_CUT_REASON_REVOKED,
		transport.OwnIdentity: adminv1.CutReason_CUT_REASON_OWN_IDENTITY,
		"another":             adminv1.CutReason_CUT_REASON_UNSPECIFIED,
	} {
		if got := reason(given); got != want {
			t.Errorf("%s is %v, want %v", given, got, want)
		}
	}
}
