package policy

import (
	"errors"
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/countersign-mesh/countersign/pkg/identity"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

// The variables of a condition.
const (
	requestVariable = "request"
	peerVariable    = "peer"
	userVariable    = "user"
)

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
	case userVariable:
		return v.call.User.message(), true
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
	// types is the environment that knows all types so far, and no variable of a method. Those of conditions are made of it, so that the types of a file are there
	// once, however many of its methods have conditions.
	types *cel.Env
	// known are the files whose types are in it.
	known map[string]bool
	envs  map[envKey]*cel.Env
}

// envKey is what the environment of a condition depends on: what the requests are, empty for ones that are not known here, and whether the rule has a user.
type envKey struct {
	input protoreflect.FullName
	user  bool
}

func newCompiler() *compiler {
	return &compiler{known: make(map[string]bool), envs: make(map[envKey]*cel.Env)}
}

// env returns the environment for requests of a kind, of a rule with a user or without.
func (c *compiler) env(input protoreflect.MessageDescriptor, user bool) (*cel.Env, error) {
	if err := c.learn(input); err != nil || input == nil {
		return c.types, err
	}
	key := envKey{input.FullName(), user}
	if env, ok := c.envs[key]; ok {
		return env, nil
	}
	options := []cel.EnvOption{cel.Variable(requestVariable, cel.ObjectType(string(input.FullName())))}
	if user {
		options = append(options, cel.Variable(userVariable, cel.ObjectType(string((&policyv1.User{}).ProtoReflect().Descriptor().FullName()))))
	}
	env, err := c.types.Extend(options...)
	if err != nil {
		return nil, err
	}
	c.envs[key] = env
	return env, nil
}

// learn adds the types that requests of a kind are made of; nil for none.
func (c *compiler) learn(input protoreflect.MessageDescriptor) error {
	if c.types == nil {
		types, err := cel.NewEnv(
			cel.Types(&policyv1.Peer{}, &policyv1.User{}),
			cel.Variable(peerVariable, cel.ObjectType(string((&policyv1.Peer{}).ProtoReflect().Descriptor().FullName()))),
		)
		if err != nil {
			return err
		}
		c.types = types
	}
	if input == nil {
		return nil
	}
	files := c.unknown(input.ParentFile())
	if len(files) == 0 {
		return nil
	}
	types, err := c.types.Extend(cel.TypeDescs(files...))
	if err != nil {
		return err
	}
	c.types = types
	return nil
}

// unknown returns what is not known yet of a file and all that it imports, and has it be known.
func (c *compiler) unknown(file protoreflect.FileDescriptor) []any {
	var files []any
	var add func(protoreflect.FileDescriptor)
	add = func(file protoreflect.FileDescriptor) {
		if c.known[file.Path()] {
			return
		}
		c.known[file.Path()] = true
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

// compile compiles a condition over requests of the kind input, nil for one that is not known here, of which the grammar alone is checked. user is whether
// the rule has one.
func (c *compiler) compile(text string, input protoreflect.MessageDescriptor, user bool) (*condition, []problem) {
	env, err := c.env(input, user)
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

func problems(issues *cel.Issues) []problem {
	var all []problem
	for _, e := range issues.Errors() {
		text := e.Message
		if strings.HasPrefix(text, "undeclared reference to '"+userVariable+"'") {
			text += "; a condition asks for the user where the rule has one, as in user: transfer"
		}
		all = append(all, problem{line: e.Location.Line(), column: e.Location.Column(), text: text})
	}
	return all
}
