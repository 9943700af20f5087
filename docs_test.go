package countersign_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every test that SECURITY.md names as holding a promise exists, in the folder that stands before it.
func TestSecurityNamesTestsThatExist(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	// A folder in backquotes, or the name of a test in the last folder.
	names := regexp.MustCompile("`((?:pkg|services|e2e|cmd)[a-z/]*)`|\\b((?:Test|Fuzz)[A-Z][A-Za-z]+)\\b")
	folder, found := "", 0
	for _, match := range names.FindAllStringSubmatch(string(text), -1) {
		if match[1] != "" {
			folder = match[1]
			continue
		}
		found++
		if !declares(t, filepath.FromSlash(folder), match[2]) {
			t.Errorf("SECURITY.md names %s in %s, which is not there", match[2], folder)
		}
	}
	if found < 30 {
		t.Errorf("only %d tests were found in SECURITY.md; has its form changed?", found)
	}
}

// declares reports whether a test stands in a folder or below it.
func declares(t *testing.T, folder, test string) bool {
	t.Helper()
	declared := false
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || declared || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		declared = strings.Contains(string(source), "func "+test+"(")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return declared
}
