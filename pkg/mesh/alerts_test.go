package mesh_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/countersign-mesh/countersign/pkg/meshtest"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
)

const observability = "../../deploy/observability"

// rule is an alert rule, or a recording rule.
type rule struct {
	Alert, Record, Expr, For string
	Labels, Annotations      map[string]string
}

func alertRules(t *testing.T) []rule {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(observability, "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Groups []struct{ Rules []rule } }
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	var rules []rule
	for _, group := range file.Groups {
		rules = append(rules, group.Rules...)
	}
	if len(rules) < 10 {
		t.Fatalf("%d rules were read; has the form of the file changed?", len(rules))
	}
	return rules
}

var (
	// selector is a metric of ours with its matchers. What a recording rule makes has a colon before our name.
	selector = regexp.MustCompile(`(^|[^:\w])(countersign_\w+)(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"`)
	label    = regexp.MustCompile(`\$labels\.(\w+)`)
)

// exports is every metric of a process with the values of its labels.
type exports map[string]map[string][]string

func exported(t *testing.T, p process) exports {
	t.Helper()
	families, err := p.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(exports)
	for _, family := range families {
		labels := make(map[string][]string)
		for _, metric := range family.GetMetric() {
			for _, l := range metric.GetLabel() {
				labels[l.GetName()] = append(labels[l.GetName()], l.GetValue())
			}
		}
		all[family.GetName()] = labels
	}
	return all
}

// missing returns what an expression names and no process exports: a metric, a label or a label's value. PromQL takes all of that for no series,
// and an alert on no series never fires.
func (e exports) missing(expr string) []string {
	var missing []string
	for _, found := range selector.FindAllStringSubmatch(expr, -1) {
		name, matchers := found[2], found[3]
		labels, ok := e[name]
		if !ok {
			missing = append(missing, name)
			continue
		}
		for _, m := range matcher.FindAllStringSubmatch(matchers, -1) {
			for value := range strings.SplitSeq(m[2], "|") {
				if !slices.Contains(labels[m[1]], value) {
					missing = append(missing, name+"{"+m[1]+"="+value+"}")
				}
			}
		}
	}
	return missing
}

func runCalled(t *testing.T) process {
	t.Helper()
	m := meshtest.New(t, "bank.test", policy)
	p := run(t, m, "/risk", nil)
	// A connection, so that there is a series of every metric.
	client := riskv1.NewRiskServiceClient(m.Dial(t, "/payments", "/risk", p.addr))
	if _, err := client.AssessPayment(t.Context(), request()); err != nil {
		t.Fatal(err)
	}
	return p
}

// A metric or a reason that gets another name would silence its alerts for good, without an error anywhere.
func TestEveryAlertIsAboutWhatAProcessExports(t *testing.T) {
	t.Parallel()
	exports := exported(t, runCalled(t))
	for _, r := range alertRules(t) {
		for _, name := range exports.missing(r.Expr) {
			t.Errorf("%s%s is about %s, which no process exports", r.Alert, r.Record, name)
		}
	}
	for expr, want := range map[string]string{
		"countersign_svid_left_seconds < 1":                                             "countersign_svid_left_seconds",
		`countersign_connections_cut_total{reason="distrusted"}`:                        "countersign_connections_cut_total{reason=distrusted}",
		`rate(countersign_handshake_failures_total{side="in",reason!~"tls|plain"}[5m])`: "countersign_handshake_failures_total{side=in} countersign_handshake_failures_total{reason=plain}",
		"a:countersign_x:rate5m > countersign_policy_stale":                             "",
	} {
		if got := strings.Join(exports.missing(expr), " "); got != want {
			t.Errorf("the check finds %q missing in %s, want %q", got, expr, want)
		}
	}
}

// Whoever is woken up by an alert is told what it means and what to do, and each alert is seen to fire in promtool's tests.
func TestEveryAlertSaysWhatToDo(t *testing.T) {
	t.Parallel()
	exports := exported(t, runCalled(t))
	tests, err := os.ReadFile(filepath.Join(observability, "alerts_test.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	known := []string{"instance", "job"} // Prometheus adds them to every series
	for _, labels := range exports {
		for name := range labels {
			known = append(known, name)
		}
	}
	for _, r := range alertRules(t) {
		if r.Alert == "" {
			continue
		}
		if s := r.Labels["severity"]; s != "warning" && s != "critical" {
			t.Errorf("%s has the severity %q", r.Alert, s)
		}
		for _, annotation := range []string{"summary", "description", "runbook"} {
			if r.Annotations[annotation] == "" {
				t.Errorf("%s has no %s", r.Alert, annotation)
			}
		}
		for _, used := range label.FindAllStringSubmatch(r.Annotations["summary"]+r.Annotations["description"], -1) {
			if !slices.Contains(known, used[1]) {
				t.Errorf("%s speaks of the label %s, which no series has", r.Alert, used[1])
			}
		}
		if !strings.Contains(string(tests), `alertname="`+r.Alert+`",alertstate="firing"`) {
			t.Errorf("%s is not seen to fire in alerts_test.yaml", r.Alert)
		}
	}
}
