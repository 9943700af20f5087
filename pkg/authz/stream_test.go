package authz_test

import (
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ATTACKS 45, 65: a stream that is used at both ends at once, and watched, is decided on once under each policy, and that is recorded once.
func TestAStreamIsDecidedOnceUnderEachPolicy(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		next string
		want codes.Code
	}{
		"that allows it": {policyText + "# reviewed\n", codes.OK},
		"that denies it": {strings.Replace(policyText, "/payments", "/risk", 1), codes.PermissionDenied},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 50 {
				guard, source, recorded, _ := guarded(t, policyText)
				err := open(guard, payments, func(ss grpc.ServerStream) error {
					var using sync.WaitGroup
					for range 4 {
						using.Go(func() {
							for range 50 {
								_ = ss.RecvMsg(nil)
								_ = ss.SendMsg(nil)
							}
						})
					}
					source.replace(mustParse(t, test.next), true)
					using.Wait()
					return ss.SendMsg(nil)
				})
				if status.Code(err) != test.want {
					t.Errorf("the stream ended with %v", err)
				}
				if n := len(recorded.list); n != 2 {
					t.Fatalf("%d decisions were recorded under two policies", n)
				}
			}
		})
	}
}
