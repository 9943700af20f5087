package keys

import (
	"testing"
	"time"
)

func planned(t *testing.T, now time.Time, keys []Key) (signing, waiting Key, all []Key) {
	t.Helper()
	all, err := plan(now, Access, keys)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range all {
		switch {
		case k.signs() && signing.ID != "", k.waits() && waiting.ID != "":
			t.Fatal("two keys sign, or wait")
		case k.signs():
			signing = k
		case k.waits():
			waiting = k
		}
	}
	if signing.ID == "" || waiting.ID == "" {
		t.Fatal("no key signs, or waits")
	}
	return signing, waiting, all
}

func TestAKeyThatWasNotPublishedForLongDoesNotSign(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	signing, waiting, all := planned(t, now, nil)
	for i := range all {
		if all[i].ID == waiting.ID {
			all[i].Created = now.Add(SignFor - Lead + time.Second)
		}
	}
	if s, w, _ := planned(t, now.Add(SignFor), all); s.ID != signing.ID || w.ID != waiting.ID {
		t.Error("a key signs before it was published for long enough")
	}
	if s, _, _ := planned(t, now.Add(SignFor+time.Second), all); s.ID != waiting.ID {
		t.Error("a key does not sign once it was published for long enough")
	}
}

func TestAServiceThatWasAwayGoesOnWithWhatItHadPublished(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	signing, waiting, all := planned(t, now, nil)
	s, _, all := planned(t, now.Add(100*SignFor), all)
	if s.ID != waiting.ID || len(all) != 3 {
		t.Errorf("%s signs of %d keys", s.ID, len(all))
	}
	_, _, all = planned(t, now.Add(100*SignFor+keep), all)
	for _, k := range all {
		if k.ID == signing.ID {
			t.Error("a key is still there when all that it signed is over")
		}
	}
}
