package main

import (
	"bytes"
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// page is what a file of requirements makes: a page on how some standards are held.
type page struct {
	Title string `yaml:"title"`
	// Intro says what the standards are about.
	Intro string `yaml:"intro"`
	// Attribute is the key of the attribute by which tests name requirements of this page.
	Attribute string      `yaml:"attribute"`
	Standards []*standard `yaml:"standards"`
}

// standard is a document that asks for something.
type standard struct {
	Name string `yaml:"name"`
	// URL is empty for what this project asks of itself.
	URL          string         `yaml:"url"`
	Requirements []*requirement `yaml:"requirements"`
}

// requirement is one sentence of a standard.
type requirement struct {
	Section string `yaml:"section"`
	// Key is its name among those of its section.
	Key  string `yaml:"key"`
	Text string `yaml:"text"`
	// Note is what else there is to know of how it is held.
	Note string `yaml:"note"`
	// Elsewhere says why there is no test: on whom it falls, or that there is nothing that could break it.
	Elsewhere string `yaml:"elsewhere"`

	tests []*test
}

// id is how a test names a requirement.
func (s *standard) id(r *requirement) string {
	if r.Section == "" {
		return s.Name + " " + r.Key
	}
	return s.Name + " §" + r.Section + " " + r.Key
}

func parsePage(text []byte) (page, error) {
	var file page
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		return page{}, err
	}
	seen := make(map[string]bool)
	var errs []error
	if file.Title == "" || file.Intro == "" || file.Attribute == "" {
		errs = append(errs, errors.New("the page lacks a title, an intro or an attribute"))
	}
	for _, s := range file.Standards {
		for _, r := range s.Requirements {
			id := s.id(r)
			if s.Name == "" || r.Key == "" || r.Text == "" {
				errs = append(errs, fmt.Errorf("%q lacks a name, a key or a text", id))
			}
			if seen[id] {
				errs = append(errs, fmt.Errorf("%q stands twice", id))
			}
			seen[id] = true
		}
	}
	if len(seen) == 0 {
		errs = append(errs, errors.New("there are no requirements"))
	}
	return file, errors.Join(errs...)
}

// assign gives each requirement its tests, and fails when the two do not fit.
func assign(standards []*standard, tests []*test) error {
	byID := make(map[string]*requirement)
	for _, s := range standards {
		for _, r := range s.Requirements {
			byID[s.id(r)] = r
		}
	}
	var errs []error
	for _, t := range tests {
		if t.result != passed {
			errs = append(errs, fmt.Errorf("%s did not pass: %s\n%s", t.name, t.result, t.output.String()))
		}
		for _, id := range t.requirements {
			r, ok := byID[id]
			if !ok {
				errs = append(errs, fmt.Errorf("%s is a test of %q, which is no requirement", t.name, id))
				continue
			}
			r.tests = append(r.tests, t)
		}
	}
	for _, s := range standards {
		for _, r := range s.Requirements {
			switch {
			case r.Elsewhere == "" && len(r.tests) == 0:
				errs = append(errs, fmt.Errorf("%q has no test", s.id(r)))
			case r.Elsewhere != "" && len(r.tests) > 0:
				errs = append(errs, fmt.Errorf("%q is said to fall on others, and %s is a test of it", s.id(r), r.tests[0].name))
			}
		}
	}
	return errors.Join(errs...)
}
