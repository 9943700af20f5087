package policycheck

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

// coverage reports where the files and the contracts do not fit each other: services and methods without rules, which nobody could ever call,
// and rules for what there is not, which guard nothing. It goes by what is written, so that a mistake elsewhere in a file hides none of it.
func coverage(main string, files map[string]file, set *contracts.Set) []error {
	if _, ok := files[main]; !ok {
		return nil // what it includes is not known either
	}
	var errs []error
	ruled := unread(main, files)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f := files[name]
		for _, service := range slices.Sorted(maps.Keys(f.GetServices())) {
			ruled[service] = true
			errs = append(errs, f.coversService(service, set)...)
		}
	}
	for _, service := range set.Required() {
		if !ruled[service] {
			errs = append(errs, files[main].At("services").Errorf("the service %s has no rules; add it under services:", service))
		}
	}
	return errs
}

func (f file) coversService(name string, set *contracts.Set) []error {
	methods := f.GetServices()[name].GetMethods()
	has, ok := set.Methods(name)
	if !ok {
		at := f.At("services", name)
		return append([]error{at.Errorf("the contracts have no service %s; %s", name, suggestion(name, set.Required(),
			"say where its contract is with --descriptors"))}, f.unchecked(name, methods)...)
	}
	var errs []error
	for _, m := range has {
		if _, ok := methods[m]; !ok {
			errs = append(errs, f.At("services", name).Errorf(
				"the method %s of %s has no rules; add it under methods: (with allow: [] if nobody may call it)", m, name))
		}
	}
	for _, m := range slices.Sorted(maps.Keys(methods)) {
		if !slices.Contains(has, m) {
			errs = append(errs, f.At("services", name, "methods", m).Errorf("%s has no method %s; %s", name, m,
				suggestion(m, has, "it has "+strings.Join(has, ", "))))
		}
	}
	return errs
}

// unchecked reports the conditions over requests of a service whose messages nobody knows here: they may name fields that there are not.
func (f file) unchecked(service string, methods map[string]*policyv1.Method) []error {
	var errs []error
	for _, m := range slices.Sorted(maps.Keys(methods)) {
		for _, list := range []struct {
			name  string
			rules []*policyv1.Rule
		}{{"allow", methods[m].GetAllow()}, {"deny", methods[m].GetDeny()}} {
			for i, r := range list.rules {
				if r.GetWhen() != "" {
					errs = append(errs, f.At("services", service, "methods", m, list.name, i, "when").Errorf(
						"when: it cannot be checked, since the messages of %s are not known", service))
				}
			}
		}
	}
	return errs
}

// suggestion asks for the name that may have been meant, and says something else where none is near.
func suggestion(name string, names []string, otherwise string) string {
	if near := nearest(name, names); near != "" {
		return fmt.Sprintf("did you mean %s?", near)
	}
	return otherwise
}

// nearest returns the name that differs the least, empty when all differ by more than a slip or two.
func nearest(name string, names []string) string {
	best, least := "", max(2, len(name)/4)+1
	for _, candidate := range names {
		if d := distance(strings.ToLower(name), strings.ToLower(candidate)); d < least {
			best, least = candidate, d
		}
	}
	return best
}

// distance is how many bytes have to be put in, taken out or exchanged to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
