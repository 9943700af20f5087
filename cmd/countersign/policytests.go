package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyfile"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
	"github.com/countersign-mesh/countersign/pkg/yamlfile"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

// runTests holds a policy against a table of tests, and fails with all that it does not pass.
func runTests(path string, p *policy.Policy, set *contracts.Set) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the tests: %w", err)
	}
	var table policyv1.Table
	document, err := yamlfile.Unmarshal(path, text, &table)
	if err != nil {
		return err
	}
	var errs []error
	for i, test := range table.GetCases() {
		if err := runTest(test, p, set); err != nil {
			errs = append(errs, document.At("cases", i).Errorf("%s: %w", nameOf(test), err))
		}
	}
	return errors.Join(errs...)
}

func nameOf(test *policyv1.Case) string {
	if test.GetName() != "" {
		return test.GetName()
	}
	return fmt.Sprintf("%s %s is %s", test.GetPeer(), test.GetMethod(), test.GetWant())
}

func runTest(test *policyv1.Case, p *policy.Policy, set *contracts.Set) error {
	id, err := policyfile.ParseID(p.TrustDomain(), test.GetPeer())
	if err != nil {
		return err
	}
	call := policy.Call{Method: "/" + test.GetMethod(), Peer: &identity.Peer{ID: id}}
	if test.GetRequest() != nil {
		method, err := set.Method(test.GetMethod())
		if err != nil {
			return err
		}
		request := dynamicpb.NewMessage(method.Input())
		json, err := protojson.Marshal(test.GetRequest())
		if err != nil {
			return err
		}
		if err := protojson.Unmarshal(json, request); err != nil {
			return fmt.Errorf("request: %w", err)
		}
		call.Request = request
	}
	return compare(test, p.Decide(call))
}

func compare(test *policyv1.Case, got policy.Verdict) error {
	if got.Undecided {
		return fmt.Errorf("want %s; it depends on the request, which the case does not have: %s", test.GetWant(), got.Reason)
	}
	if outcome := map[bool]string{true: "allowed", false: "denied"}[got.Allowed]; outcome != test.GetWant() {
		return fmt.Errorf("want %s, is %s %s", test.GetWant(), outcome, strings.TrimSpace(got.Rule.Place()+" "+got.Reason))
	}
	if want := test.GetRule(); want != "" && (got.Rule == nil || got.Rule.Why != want && got.Rule.Written != want) {
		return fmt.Errorf("want the rule %q to decide, not %q", want, got.Rule.Place())
	}
	return nil
}
