package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const sample = `package p

const most = 8

func (s *Set) Has(a, b int, ok bool) bool {
	for i := 0; i < len(s.all); i++ {
		if ok && !s.empty {
			break
		}
		if s.has(a) {
			return a+b == most || b == a
		}
	}
	return false
}
`

func TestMutantsOf(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "set.go")
	if err := os.WriteFile(path, []byte(sample), 0o600); err != nil {
		t.Fatal(err)
	}
	mutants, err := mutantsOf(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range mutants {
		lines := strings.Split(string(m.text), "\n")
		got = append(got, m.place()+" "+m.change()+": "+strings.TrimSpace(lines[m.line-1]))
		if strings.Count(string(m.text), "\n") != strings.Count(sample, "\n") || string(m.text) == sample {
			t.Errorf("%s makes\n%s", m.change(), m.text)
		}
	}
	want := []string{
		"set.go const 8 → 9: const most = 9",
		"set.go const 8 → 7: const most = 7",
		"set.go Set.Has 0 → 1: for i := 1; i < len(s.all); i++ {",
		"set.go Set.Has 0 → -1: for i := -1; i < len(s.all); i++ {",
		"set.go Set.Has < → <=: for i := 0; i <= len(s.all); i++ {",
		"set.go Set.Has ++ → --: for i := 0; i < len(s.all); i-- {",
		"set.go Set.Has && → ||: if ok || !s.empty {",
		"set.go Set.Has ok → !ok: if !ok && !s.empty {",
		"set.go Set.Has ! removed: if ok && s.empty {",
		"set.go Set.Has break → continue: continue",
		"set.go Set.Has s.has(a) → !s.has(a): if !s.has(a) {",
		"set.go Set.Has || → &&: return a+b == most && b == a",
		"set.go Set.Has == → !=: return a+b != most || b == a",
		"set.go Set.Has + → -: return a-b == most || b == a",
		"set.go Set.Has == → != #2: return a+b == most || b != a",
		"set.go Set.Has false → true: return true",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the mutants are not as they should be (-want +got)\n%s", diff)
	}
}

const module = `module example.test/p

go 1.26
`

// checked has a test of Less, which does not look at what is equal, and none of Max.
const checked = `package p

import "testing"

func TestLess(t *testing.T) {
	if !Less(1, 2) || Less(2, 1) {
		t.Error("wrong")
	}
}
`

const compared = `package p

func Less(a, b int) bool { return a < b }

func Max(a, b int) int {
	if a > b {
		return a
	}
	return b
}

func Even(n int) bool { return n%2 == 0 }
`

// The whole way: what the tests notice, what they do not, and what is listed for no mistake.
func TestRunTellsWhatTheTestsNotice(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": module, "p.go": compared, "p_test.go": checked, "even_test.go": `package p

import "testing"

func TestEven(t *testing.T) {
	for n, want := range map[int]bool{1: false, 2: true, 3: false, 8: true} {
		if Even(n) != want {
			t.Error(n)
		}
	}
}
`, "listed.txt": "# no mistakes\n\np.go Max\nif a > b {\n> → >=\nOf two that are equal\neither is the larger.\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	t.Setenv("GOWORK", "off")
	t.Setenv("GOFLAGS", "")
	var document, progress strings.Builder
	err := run(t.Context(), []string{"-equivalent", "listed.txt", ".", "p.go"}, &document, &progress)
	if err == nil || !strings.Contains(err.Error(), "p.go:3: < → <= goes unnoticed: func Less(a, b int) bool { return a < b }") || strings.Contains(err.Error(), "Max") {
		t.Errorf("the error is %v\n%s", err, &progress)
	}
	for _, want := range []string{
		"| 3 | Less | `func Less(a, b int) bool { return a < b }` | `< → <=` | **not noticed** |",
		"| 6 | Max | `if a > b {` | `> → >=` | no mistake: Of two that are equal either is the larger. |",
		"| 12 | Even | `func Even(n int) bool { return n%2 == 0 }` | `== → !=` | noticed |",
	} {
		if !strings.Contains(document.String(), want) {
			t.Errorf("the document is\n%s\nand does not have\n%s", &document, want)
		}
	}
	if source, err := os.ReadFile("p.go"); err != nil || string(source) != compared {
		t.Errorf("the source was changed: %v\n%s", err, source)
	}
}

func TestAListThatIsNotRightIsAnError(t *testing.T) {
	t.Parallel()
	m := &mutant{file: "p/p.go", function: "Less", line: 3, source: "return a < b", old: "<", new: "<=", nth: 1, result: noticed}
	for name, test := range map[string]struct {
		listed noMistake
		want   string
	}{
		"one that the tests notice": {noMistake{"p.go Less", "return a < b", "< → <=", "x"}, "p/p.go:3: < → <= is listed for no mistake, and is noticed"},
		"one that there is not":     {noMistake{"p.go More", "return a < b", "< → <=", "x"}, `p.go More: < → <= of "return a < b" is listed, and there is no such change`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := judge([]*mutant{m}, []noMistake{test.listed}); err == nil || err.Error() != test.want {
				t.Errorf("judge = %v, want %s", err, test.want)
			}
		})
	}
	path := filepath.Join(t.TempDir(), "listed.txt")
	if err := os.WriteFile(path, []byte("p.go Less\nreturn a < b\n< → <=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readEquivalents(path); err == nil || !strings.Contains(err.Error(), "want the file and the function") {
		t.Errorf("one without a reason is read: %v", err)
	}
}
