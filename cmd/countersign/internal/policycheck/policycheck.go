// Package policycheck finds what is wrong with a policy before a server does: mistakes in its files, and where it and the contracts of the
// services do not fit each other. It also finds what is suspicious though it is no mistake.
package policycheck

import (
	"path/filepath"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
	"github.com/countersign-mesh/countersign/pkg/policy"
	"github.com/countersign-mesh/countersign/pkg/yamlfile"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

// Report is what was found.
type Report struct {
	// Errors are what a server would not start with, or would not do what its reader believes.
	Errors []error
	// Warnings are what may be meant as it stands.
	Warnings []error
	// Version is the policy's; empty when it could not be compiled.
	Version string
	// Files, Services, Methods and Rules count what it has.
	Files, Services, Methods, Rules int
}

// Check checks a policy against the contracts that it is about. All that is wrong is in the report, each with file, line and column.
func Check(source policy.Source, set *contracts.Set) Report {
	var report Report
	compiled, err := policy.Compile(source, policy.WithDescriptors(set))
	main, files := read(source)
	report.Errors = append(each(err), coverage(main, files, set)...)
	if compiled == nil {
		return report
	}
	report.Version, report.Files = compiled.Version(), len(source.Names())
	for service := range compiled.Services() {
		report.Services++
		if len(service.ServedBy) == 0 {
			report.Warnings = append(report.Warnings, warning(service.Position,
				"%s has no served_by, so that no client dials a server for it; say who serves it, such as served_by: [/ledger]", service.Name))
		}
		for _, m := range service.Methods {
			report.Methods++
			report.Rules += len(m.Rules)
			report.Warnings = append(report.Warnings, idle(m)...)
		}
	}
	return report
}

// warning is an error that says that it is none.
func warning(at yamlfile.Position, format string, args ...any) error {
	return at.Errorf("warning: "+format, args...)
}

// each returns the errors that were joined into one.
func each(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var errs []error
	for _, e := range joined.Unwrap() {
		errs = append(errs, each(e)...)
	}
	return errs
}

// file is a file of a policy as it is written. What is wrong with its values, Compile says.
type file struct {
	*policyv1.Policy
	*yamlfile.Document
}

// read returns the files of a source that are written as a policy is, by their names, and the name of the main one.
func read(source policy.Source) (main string, files map[string]file) {
	main, files = source.Names()[0], make(map[string]file)
	for name, text := range source.Files() {
		message := &policyv1.Policy{}
		if document, _ := yamlfile.Unmarshal(name, text, message); document != nil { // what is wrong with it, Compile has said
			files[name] = file{Policy: message, Document: document}
		}
	}
	return main, files
}

// unread returns the services that the main file leaves to files that could not be read: of their rules nothing is known.
func unread(main string, files map[string]file) map[string]bool {
	services := make(map[string]bool)
	for _, include := range files[main].GetInclude() {
		if _, ok := files[filepath.Join(filepath.Dir(main), include.GetFile())]; ok {
			continue
		}
		for _, name := range include.GetServices() {
			services[name] = true
		}
	}
	return services
}
