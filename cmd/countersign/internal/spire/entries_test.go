package spire

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"pgregory.net/rapid"
)

// An agent hands a workload that matches several entries its identities in the order of their IDs, and the first is its default.
func TestTheOrderOfTheFileIsThatOfTheEntries(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		shuffled := rapid.Permutation([]string{"/a", "/b", "/c", "/d", "/e", "/f"})
		first, second := shuffled.Draw(t, "first"), shuffled.Draw(t, "second")
		first, second = first[:rapid.IntRange(1, 6).Draw(t, "many")], second[:rapid.IntRange(1, 6).Draw(t, "later")]
		n := node{name: "desk"}
		var own []*types.Entry
		for _, ids := range [][]string{first, second} {
			var wanted []*types.Entry
			for _, id := range ids {
				wanted = append(wanted, &types.Entry{SpiffeId: &types.SPIFFEID{Path: id}})
			}
			c := n.plan(own, wanted)
			own = slices.DeleteFunc(own, func(e *types.Entry) bool { return slices.Contains(c.remove, e.GetId()) })
			own = append(own, c.create...)
			slices.SortFunc(own, func(a, b *types.Entry) int { return strings.Compare(a.GetId(), b.GetId()) })
			var got []string
			for _, e := range own {
				got = append(got, e.GetSpiffeId().GetPath())
			}
			if !slices.Equal(got, ids) || c.unchanged+len(c.create) != len(ids) {
				t.Fatalf("the entries are %q, want %q; %d as they were, %d created", got, ids, c.unchanged, len(c.create))
			}
		}
	})
}

func TestAnEntryThatComesBetweenOthersLeavesThemAsTheyAre(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ old, want []int }{
		"the first ones":            {[]int{0, 0, 0}, []int{1000, 2000, 3000}},
		"at the end":                {[]int{1000, 0}, []int{1000, 2000}},
		"in front":                  {[]int{0, 1000}, []int{500, 1000}},
		"between":                   {[]int{1000, 0, 0, 2000}, []int{1000, 1500, 1750, 2000}},
		"where there is no room":    {[]int{1, 0, 2, 9}, []int{1, 2, 5, 9}},
		"one that has moved behind": {[]int{2000, 1000}, []int{2000, 3000}},
	} {
		if diff := cmp.Diff(test.want, ranks(test.old)); diff != "" {
			t.Errorf("%s: the ranks differ (-want +got):\n%s", name, diff)
		}
	}
}
