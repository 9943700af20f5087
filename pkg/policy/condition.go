package policy

import (
	"errors"
	"fmt"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/checker"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/countersign-mesh/countersign/pkg/identity"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

// The variables of a condition.
const (
	requestVariable = "request"
	peerVariable    = "peer"
)

// maxCost bounds what the evaluation of one condition may cost, in CEL's own units: about one for each operator and for each element that is
// looked at. It ends a condition over a list that a caller made very long, on the path of a call.
const maxCost = 10_000

// condition is what a rule has under when. It is immutable and safe for concurrent use.
type condition struct {
	text string
	// program is nil when the method's messages are not known here. The condition depends on the request then, as far as anybody can tell here, and
	// can be evaluated for none: a server knows the messages of all that it serves.
	program cel.Program
	// overRequest is whether it can only be told once there is a request.
	overRequest bool
}

// truth is whether a condition holds.
type truth int

const (
	no truth = iota
	yes
	unknown
)

var (
	errNoMessages = errors.New("the method's messages are not known to this process")
	errNotBool    = errors.New("it is neither true nor false")
)

// holds evaluates the condition for a call. A nil condition holds. The error says why it could not be evaluated; it is neither true nor
// false then, and whoever asks must take the side that lets nobody in.
func (c *condition) holds(call Call) (truth, error) {
	if c == nil {
		return yes, nil
	}
	if c.overRequest && call.Request == nil {
		return unknown, nil
	}
	if c.program == nil {
		return no, errNoMessages
	}
	result, _, err := c.program.Eval(&variables{call})
	if err != nil {
		return no, err
	}
	switch result.Value() {
	case true:
		return yes, nil
	case false:
		return no, nil
	}
	return no, errNotBool
}

// variables gives a condition the values of its variables: a cel.Activation.
type variables struct{ call Call }

// ResolveName implements cel.Activation.
func (v *variables) ResolveName(name string) (any, bool) {
	switch name {
	case requestVariable:
		return v.call.Request, v.call.Request != nil
	case peerVariable:
		return peerMessage(v.call.Peer), true
	}
	return nil, false
}

// Parent implements cel.Activation.
func (v *variables) Parent() cel.Activation { return nil }

func peerMessage(peer *identity.Peer) proto.Message {
	if peer == nil {
		return &policyv1.Peer{}
	}
	return &policyv1.Peer{Id: peer.ID.String(), TrustDomain: peer.ID.TrustDomain().Name(), Path: peer.ID.Path()}
}

// compiler compiles conditions. It makes CEL's environment when the first condition comes: most policies have none.
type compiler struct {
	base func() (*cel.Env, error)
	envs map[protoreflect.FullName]*cel.Env
}

func newCompiler() *compiler {
	return &compiler{
		base: sync.OnceValues(func() (*cel.Env, error) {
			return cel.NewEnv(
				cel.Types(&policyv1.Peer{}),
				cel.Variable(peerVariable, cel.ObjectType(string((&policyv1.Peer{}).ProtoReflect().Descriptor().FullName()))),
			)
		}),
		envs: make(map[protoreflect.FullName]*cel.Env),
	}
}

// env returns the environment for requests of a kind.
func (c *compiler) env(input protoreflect.MessageDescriptor) (*cel.Env, error) {
	base, err := c.base()
	if err != nil || input == nil {
		return base, err
	}
	if env, ok := c.envs[input.FullName()]; ok {
		return env, nil
	}
	env, err := base.Extend(
		cel.TypeDescs(withImports(input.ParentFile())...),
		cel.Variable(requestVariable, cel.ObjectType(string(input.FullName()))),
	)
	if err != nil {
		return nil, err
	}
	c.envs[input.FullName()] = env
	return env, nil
}

// withImports returns a file and all that it imports.
func withImports(file protoreflect.FileDescriptor) []any {
	var files []any
	seen := make(map[string]bool)
	var add func(protoreflect.FileDescriptor)
	add = func(file protoreflect.FileDescriptor) {
		if seen[file.Path()] {
			return
		}
		seen[file.Path()] = true
		for i := range file.Imports().Len() {
			add(file.Imports().Get(i).FileDescriptor)
		}
		files = append(files, file)
	}
	add(file)
	return files
}

// problem is what is wrong with a condition, and where in its text: line from 1, column from 0.
type problem struct {
	line, column int
	text         string
}

// compile compiles a condition over requests of the kind input, nil for one that is not known here, of which the grammar alone is checked.
func (c *compiler) compile(text string, input protoreflect.MessageDescriptor) (*condition, []problem) {
	env, err := c.env(input)
	if err != nil {
		return nil, []problem{{line: 1, text: err.Error()}}
	}
	parsed, issues := env.Parse(text)
	if issues.Err() != nil {
		return nil, problems(issues)
	}
	if input == nil {
		return &condition{text: text, overRequest: true}, nil
	}
	checked, issues := env.Check(parsed)
	if issues.Err() != nil {
		return nil, problems(issues)
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return nil, []problem{{line: 1, text: fmt.Sprintf("it is of type %s; a condition is true or false", checked.OutputType())}}
	}
	program, err := env.Program(checked, bounded(env, checked)...)
	if err != nil {
		return nil, []problem{{line: 1, text: err.Error()}}
	}
	compiled := &condition{text: text, program: program}
	for _, reference := range checked.NativeRep().ReferenceMap() {
		compiled.overRequest = compiled.overRequest || reference.Name == requestVariable
	}
	return compiled, nil
}

// bounded returns the options that bound the evaluation of a condition. To count what it costs takes longer than to evaluate it, so that is left
// out where nothing that a caller can send makes it cost too much, as in one that compares fields with constants.
func bounded(env *cel.Env, checked *cel.Ast) []cel.ProgramOption {
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	if worst, err := env.EstimateCost(checked, anySize{}); err != nil || worst.Max > maxCost {
		options = append(options, cel.CostLimit(maxCost))
	}
	return options
}

// anySize is a checker.CostEstimator that takes every text and every list for as long as can be.
type anySize struct{}

// EstimateSize implements checker.CostEstimator.
func (anySize) EstimateSize(checker.AstNode) *checker.SizeEstimate { return nil }

// EstimateCallCost implements checker.CostEstimator.
func (anySize) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}

func problems(issues *cel.Issues) []problem {
	var all []problem
	for _, e := range issues.Errors() {
		all = append(all, problem{line: e.Location.Line(), column: e.Location.Column(), text: e.Message})
	}
	return all
}
