package policy

import (
	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/checker"
)

// maxCost bounds what the evaluation of one condition may cost, in CEL's own units: about one for each operator and for each element that is
// looked at. It ends a condition over a list that a caller made very long, on the path of a call.
const maxCost = 10_000

// bounded returns the options that bound the evaluation of a condition. To count what it costs takes longer than to evaluate it, so that is left
// out where nothing that a caller can send makes it cost too much, as in one that compares fields with constants.
func bounded(env *cel.Env, checked *cel.Ast) []cel.ProgramOption {
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	if worst, err := env.EstimateCost(checked, anySize{}); err != nil || worst.Max > maxCost {
		options = append(options, cel.CostLimit(maxCost))
	}
	return options
}

// anySize is a checker.CostEstimator that takes every text and every list for as long as can be. Those of the user come out of a token that a server has verified,
// whose size is bounded.
type anySize struct{}

// maxUser is more than the size of what a token says: gRPC's metadata has no room for more.
const maxUser = 1 << 14

// EstimateSize implements checker.CostEstimator.
func (anySize) EstimateSize(node checker.AstNode) *checker.SizeEstimate {
	if path := node.Path(); len(path) > 0 && path[0] == userVariable {
		return &checker.SizeEstimate{Max: maxUser}
	}
	return nil
}

// EstimateCallCost implements checker.CostEstimator.
func (anySize) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}
