package policytest

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/countersign-mesh/countersign/pkg/policy"
)

// The elements of a JUnit report, as CI systems read it. There is no standard; these are the attributes that all of them take.
type (
	testSuites struct {
		XMLName  xml.Name    `xml:"testsuites"`
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Suites   []testSuite `xml:"testsuite"`
	}
	testSuite struct {
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Errors   int        `xml:"errors,attr"`
		Skipped  int        `xml:"skipped,attr"`
		Time     string     `xml:"time,attr"`
		Cases    []testCase `xml:"testcase"`
	}
	testCase struct {
		Name    string   `xml:"name,attr"`
		Class   string   `xml:"classname,attr"`
		File    string   `xml:"file,attr"`
		Line    int      `xml:"line,attr"`
		Time    string   `xml:"time,attr"`
		Failure *failure `xml:"failure"`
	}
	failure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// Report is what a JUnit report tells.
type Report struct {
	suites testSuites
}

// Add adds the results of a table.
func (r *Report) Add(table string, results []Result) {
	suite := testSuite{Name: table}
	var took time.Duration
	for _, result := range results {
		took += result.Took
		c := testCase{
			Name:  result.Name,
			Class: strings.ReplaceAll(result.Method, "/", "."), // what stands before the last dot is shown as a group
			File:  result.Place.File,
			Line:  result.Place.Line,
			Time:  seconds(result.Took),
		}
		if result.Err != nil {
			c.Failure = &failure{
				Message: result.Err.Error(),
				Text:    fmt.Sprintf("%s:%d\nwant  %s\nis    %s", result.Place.File, result.Place.Line, result.Want, result.Got),
			}
		}
		suite.add(c)
	}
	suite.Time = seconds(took)
	r.add(suite)
}

// AddUntested adds that each rule of a policy has to decide a case: one case a policy, which fails for the rules that do not.
func (r *Report) AddUntested(p *policy.Policy, untested []*policy.Rule) {
	c := testCase{Name: "each rule decides a case", Class: p.Name(), File: p.Name(), Line: 1, Time: seconds(0)}
	if len(untested) > 0 {
		var places []string
		for _, rule := range untested {
			places = append(places, fmt.Sprintf("%s: %s: %s", rule.Position, rule.Effect, rule.Written))
		}
		c.Failure = &failure{Message: fmt.Sprintf("rules that decide no case: %d", len(untested)), Text: strings.Join(places, "\n")}
	}
	suite := testSuite{Name: p.Name(), Time: seconds(0)}
	suite.add(c)
	r.add(suite)
}

func (s *testSuite) add(c testCase) {
	s.Cases = append(s.Cases, c)
	s.Tests++
	if c.Failure != nil {
		s.Failures++
	}
}

func (r *Report) add(suite testSuite) {
	r.suites.Suites = append(r.suites.Suites, suite)
	r.suites.Tests += suite.Tests
	r.suites.Failures += suite.Failures
}

// Write writes the report as JUnit XML.
func (r *Report) Write(w io.Writer) error {
	r.suites.Name = "countersign policy test"
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	encoder := xml.NewEncoder(w)
	encoder.Indent("", "  ")
	if err := encoder.Encode(r.suites); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.6f", d.Seconds()) }
