package registration

import (
	"path/filepath"
	"strconv"
	"strings"
)

// The kinds of selectors that the authority attests.
const (
	kindUID    = "unix:uid"
	kindPath   = "unix:path"
	kindSum    = "unix:sha256"
	kindSocket = "socket"
)

// split takes a selector apart: "unix:uid:0" into "unix:uid" and "0", "socket:ledger" into "socket" and "ledger". The kind is empty for
// a selector that others attest: what one process can have of theirs is for them to know.
func split(selector string) (kind, value string) {
	for _, kind := range []string{kindUID, kindPath, kindSum, kindSocket} {
		if value, ok := strings.CutPrefix(selector, kind+":"); ok {
			return kind, value
		}
	}
	return "", selector
}

// foreign reports whether the authority cannot attest a selector.
func foreign(selector string) bool {
	kind, _ := split(selector)
	return kind == ""
}

// checkSelectors refuses an entry that nobody or everybody has.
func (p *parser) checkSelectors(i int, selectors []string) {
	first := make(map[string]string)
	for j, selector := range selectors {
		kind, value := split(selector)
		if other, ok := first[kind]; ok && kind != "" {
			p.wrong([]any{"entries", i, "selectors", j}, "no process has both %q and %q", other, selector)
		}
		first[kind] = selector
		switch kind {
		case kindUID:
			if n, err := strconv.ParseUint(value, 10, 32); err != nil || strconv.FormatUint(n, 10) != value {
				p.wrong([]any{"entries", i, "selectors", j}, "selector %q: no uid; right would be a number as id -u prints it", selector)
			}
		case kindPath:
			if !filepath.IsAbs(value) || filepath.Clean(value) != value {
				p.wrong([]any{"entries", i, "selectors", j}, "selector %q: the path must be absolute and without . or .., as the kernel gives it", selector)
			}
		}
	}
	if len(first) == 1 && first[kindUID] != "" {
		p.wrong([]any{"entries", i, "selectors"}, "selectors: every process of a user has its uid; add unix:path, unix:sha256 or socket")
	}
	p.checkSocket(i, first)
}

// checkSocket refuses a socket beside what is not looked at of those who come over it.
func (p *parser) checkSocket(i int, first map[string]string) {
	socket, ok := first[kindSocket]
	if !ok {
		return
	}
	for _, kind := range []string{kindPath, kindSum} {
		if other, ok := first[kind]; ok {
			p.wrong([]any{"entries", i, "selectors"},
				"selectors: nobody has both %q and %q, since a caller on a socket with a name is attested by that name, whatever program it is; right would be an entry for each, or unix:uid beside the socket",
				socket, other)
		}
	}
	if other, ok := first[""]; ok {
		p.wrong([]any{"entries", i, "selectors"},
			"selectors: nobody has both %q and %q, since the authority attests the one and SPIRE the other; right would be an entry for each", socket, other)
	}
}

// compatible reports whether one process can have all selectors of both, as the authority attests it: no kind asks for two values, no
// socket stands beside a program, and none is for others to attest.
func compatible(a, b []string) bool {
	values := make(map[string]string)
	for _, selectors := range [][]string{a, b} {
		for _, selector := range selectors {
			kind, value := split(selector)
			if other, ok := values[kind]; kind == "" || ok && other != value {
				return false
			}
			values[kind] = value
		}
	}
	_, socket := values[kindSocket]
	_, path := values[kindPath]
	_, sum := values[kindSum]
	return !socket || !path && !sum
}
