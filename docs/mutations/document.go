package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// noMistake is a change that no test can notice, because the program does the same with it.
type noMistake struct {
	place, source, change string
	reason                string
}

// readEquivalents reads the file that says which changes are no mistakes. Each is a paragraph: the file and the function, the line of source, the change,
// and from the fourth line on the reason. A line that starts with a hash is a comment.
func readEquivalents(path string) ([]noMistake, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []noMistake
	for paragraph := range strings.SplitSeq(string(text), "\n\n") {
		var lines []string
		for line := range strings.SplitSeq(paragraph, "\n") {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				lines = append(lines, line)
			}
		}
		switch {
		case len(lines) == 0:
			continue
		case len(lines) < 4:
			return nil, fmt.Errorf("%s: %q: want the file and the function, the line of source, the change, and why it is no mistake, a line each", path, paragraph)
		}
		all = append(all, noMistake{lines[0], lines[1], lines[2], strings.Join(lines[3:], " ")})
	}
	return all, nil
}

// judge takes those that were not noticed and are listed for no mistakes, and fails for the others, and for a list that is not right.
func judge(mutants []*mutant, listed []noMistake) error {
	var errs []error
	for _, e := range listed {
		found := false
		for _, m := range mutants {
			if m.place() != e.place || m.source != e.source || m.change() != e.change {
				continue
			}
			found = true
			if m.result != unnoticed && m.result != equivalent {
				errs = append(errs, fmt.Errorf("%s:%d: %s is listed for no mistake, and is %s", m.file, m.line, m.change(), m.result))
				continue
			}
			m.result, m.reason = equivalent, e.reason
		}
		if !found {
			errs = append(errs, fmt.Errorf("%s: %s of %q is listed, and there is no such change", e.place, e.change, e.source))
		}
	}
	for _, m := range mutants {
		if m.result == unnoticed {
			errs = append(errs, fmt.Errorf("%s:%d: %s goes unnoticed: %s", m.file, m.line, m.change(), m.source))
		}
	}
	return errors.Join(errs...)
}

// writeDocument writes what became of each mutant.
func writeDocument(w io.Writer, dir string, mutants []*mutant) {
	count := make(map[result]int)
	for _, m := range mutants {
		count[m.result]++
	}
	fmt.Fprintf(w, `# Mistakes that the tests of %s notice

Written by `+"`make mutate`"+`; see docs/mutations. Each line is one small change of the code: an operator for another one, a condition for its opposite, a
number for the next one. The tests of the package were run against each, one at a time.

| changes | noticed | no mistake | not noticed |
| --- | --- | --- | --- |
| %d | %d | %d | %d |

A change that does not compile is not counted.
`, dir, len(mutants)-count[noProgram], count[noticed]+count[tookTooLong], count[equivalent], count[unnoticed])
	file := ""
	for _, m := range mutants {
		if m.result == noProgram {
			continue
		}
		if m.file != file {
			file = m.file
			fmt.Fprintf(w, "\n## %s\n\n| line | in | code | change | the tests |\n| --- | --- | --- | --- | --- |\n", filepath.Base(file))
		}
		said := m.result.String()
		if m.reason != "" {
			said += ": " + m.reason
		}
		fmt.Fprintf(w, "| %d | %s | %s | %s | %s |\n", m.line, m.function, code(m.source), code(m.change()), cell(said))
	}
}

// code writes source into a cell of a table.
func code(text string) string { return "`" + cell(text) + "`" }

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
