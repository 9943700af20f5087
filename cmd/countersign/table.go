package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/supervisor"
)

// none stands in a table for what a program does not have or does not say.
const none = "-"

// welcome shows the mesh when it is ready, and what to try.
func (c *upCommand) welcome(s *session, issuer string, list []supervisor.Status) {
	var rows [][]console.Cell
	for _, st := range list {
		rows = append(rows, []console.Cell{
			{Text: st.Name, Tone: console.Strong},
			{Text: or(st.SPIFFEID)},
			{Text: local(st)},
			{Text: expiresIn(st)},
			{Text: console.Seconds(st.ReadyAfter), Tone: console.Good},
		})
	}
	s.out.Printf("\n%s\n\n", s.out.Say(console.Strong, "The bank is open."))
	s.out.Table([]string{"service", "SPIFFE ID", "address", "SVID expires in", "ready after"}, rows)
	s.out.Printf("\n%s\n", s.out.Say(console.Faint, "Each process is attested, and given its SVID, by "+issuer+"."))
	if doors, err := s.mesh.Find(); err == nil {
		s.out.Printf("%s\n", s.out.Say(console.Faint, fmt.Sprintf("Customers come in at %s (gRPC) and https://%s (REST), and log in at %s.",
			localhost(doors.Edge.GRPC), localhost(doors.Edge.REST), doors.Edge.Issuer)))
	}
	where := ", in another terminal"
	if c.Detach {
		where = ""
	}
	s.out.Printf("\nTry next%s:\n\n", where)
	// As the reader called it: a program in bin/ is not on the PATH.
	command := os.Args[0] + runDirFlag(s)
	s.out.Table(nil, [][]console.Cell{
		{{Text: command + " demo", Tone: console.Accent}, {Text: "a day of the bank, each outcome checked", Tone: console.Faint}},
		{{Text: command + " bank --help", Tone: console.Accent}, {Text: "the bank as its customers have it", Tone: console.Faint}},
		{{Text: command + " call ledger CheckTrialBalance", Tone: console.Accent}, {Text: "a call that the operator may make", Tone: console.Faint}},
		{{Text: command + " call ledger PostTransfer", Tone: console.Accent}, {Text: "one that it may not", Tone: console.Faint}},
	})
	closing := "Ctrl-C stops it all. From here on: what the services log."
	if c.Detach {
		closing = "The logs are in " + s.dir.Logs() + ". Stop it all with: " + command + " down"
	}
	s.out.Printf("\n%s\n\n", s.out.Say(console.Faint, closing))
}

// runDirFlag is what other commands need to find this mesh.
func runDirFlag(s *session) string {
	for i, arg := range s.args {
		if value, ok := strings.CutPrefix(arg, "--run-dir="); ok {
			return " --run-dir=" + value
		}
		if arg == "--run-dir" && i+1 < len(s.args) {
			return " --run-dir=" + s.args[i+1]
		}
	}
	return ""
}

// local is a program's address as a client on this machine should write it: SVIDs have the name localhost in them, so that a stock TLS
// client can verify the server.
func local(st supervisor.Status) string {
	if st.Address == "" {
		return none
	}
	return localhost(st.Address)
}

func localhost(address string) string { return strings.Replace(address, "127.0.0.1", "localhost", 1) }

func or(text string) string {
	if text == "" {
		return none
	}
	return text
}

func expiresIn(st supervisor.Status) string {
	if st.SVIDExpires.IsZero() {
		return none
	}
	return remaining(time.Until(st.SVIDExpires))
}

// remaining is how long something is still good.
func remaining(left time.Duration) string {
	if left <= 0 {
		return "expired"
	}
	return console.Span(left)
}
