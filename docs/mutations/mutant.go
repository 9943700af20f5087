package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// mutant is one small mistake in one place.
type mutant struct {
	file       string // its path
	start, end int    // what is replaced, in bytes
	old, new   string
	function   string // that it is in, or the constant
	line       int
	source     string // the line, without what surrounds it
	nth        int    // which of the same changes of such a line in the function it is, from 1
	text       []byte // the file with the mistake in it

	result result
	reason string // why it is no mistake
}

// result is what became of a mutant.
type result int

const (
	untried result = iota
	noticed
	tookTooLong
	unnoticed
	noProgram // it does not compile
	equivalent
)

// String names the result as the document does.
func (r result) String() string {
	return [...]string{"untried", "noticed", "noticed: the tests do not end", "**not noticed**", "does not compile", "no mistake"}[r]
}

// place names a mutant's function, without a line that moves.
func (m *mutant) place() string { return filepath.Base(m.file) + " " + m.function }

// change names what is changed.
func (m *mutant) change() string {
	text := m.old + " → " + m.new
	if m.new == "" {
		text = m.old + " removed"
	}
	if m.nth > 1 {
		text += " #" + strconv.Itoa(m.nth)
	}
	return text
}

// instead is what stands for an operator.
func instead(op token.Token) string {
	switch op {
	case token.EQL:
		return "!="
	case token.NEQ:
		return "=="
	case token.LSS:
		return "<="
	case token.LEQ:
		return "<"
	case token.GTR:
		return ">="
	case token.GEQ:
		return ">"
	case token.LAND:
		return "||"
	case token.LOR:
		return "&&"
	case token.ADD: // of texts it does not compile
		return "-"
	case token.SUB:
		return "+"
	case token.INC:
		return "--"
	case token.DEC:
		return "++"
	case token.BREAK:
		return "continue"
	case token.CONTINUE:
		return "break"
	default:
		return ""
	}
}

// finder finds the mutants of a file.
type finder struct {
	path     string
	source   []byte
	files    *token.FileSet
	function string
	mutants  []*mutant
	seen     map[string]int
}

// mutantsOf returns each small mistake that can be made in a file.
func mutantsOf(path string) ([]*mutant, error) {
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f := &finder{path: path, source: source, files: token.NewFileSet(), seen: make(map[string]int)}
	file, err := parser.ParseFile(f.files, path, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	for _, declaration := range file.Decls {
		switch d := declaration.(type) {
		case *ast.FuncDecl:
			f.function = d.Name.Name
			if d.Recv != nil {
				f.function = strings.TrimPrefix(f.text(d.Recv.List[0].Type), "*") + "." + f.function
			}
		case *ast.GenDecl:
			if d.Tok != token.CONST && d.Tok != token.VAR {
				continue
			}
			f.function = d.Tok.String()
		}
		ast.Inspect(declaration, f.node)
	}
	return f.mutants, nil
}

// node adds the mutants that a node has.
func (f *finder) node(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.BinaryExpr:
		f.replace(n.OpPos, n.Op.String(), instead(n.Op))
		if n.Op == token.LAND || n.Op == token.LOR {
			f.negate(n.X)
			f.negate(n.Y)
		}
	case *ast.UnaryExpr:
		if n.Op == token.NOT {
			f.replace(n.OpPos, "!", "")
		}
	case *ast.IncDecStmt:
		f.replace(n.TokPos, n.Tok.String(), instead(n.Tok))
	case *ast.BranchStmt:
		f.replace(n.TokPos, n.Tok.String(), instead(n.Tok))
	case *ast.IfStmt:
		f.negate(n.Cond)
	case *ast.ForStmt:
		f.negate(n.Cond)
	case *ast.Ident:
		f.flip(n)
	case *ast.BasicLit:
		f.move(n)
	}
	return true
}

// flip adds the other one of true and false.
func (f *finder) flip(n *ast.Ident) {
	switch n.Name {
	case "true":
		f.replace(n.Pos(), n.Name, "false")
	case "false":
		f.replace(n.Pos(), n.Name, "true")
	}
}

// move adds the numbers beside one.
func (f *finder) move(n *ast.BasicLit) {
	value, err := strconv.Atoi(n.Value)
	if err != nil || n.Kind != token.INT {
		return
	}
	f.replace(n.Pos(), n.Value, strconv.Itoa(value+1))
	f.replace(n.Pos(), n.Value, strconv.Itoa(value-1))
}

// negate adds the opposite of a condition that has no operator of its own, such as a call. There may be none.
func (f *finder) negate(condition ast.Expr) {
	switch condition.(type) {
	case *ast.Ident, *ast.CallExpr, *ast.SelectorExpr:
		text := f.text(condition)
		if text != "true" && text != "false" {
			f.replace(condition.Pos(), text, "!"+text)
		}
	}
}

func (f *finder) text(n ast.Node) string {
	return string(f.source[f.files.Position(n.Pos()).Offset:f.files.Position(n.End()).Offset])
}

// replace adds a mutant that has replacement instead of the text that stands at pos; none where nothing stands for it.
func (f *finder) replace(pos token.Pos, old, replacement string) {
	if replacement == "" && old != "!" {
		return
	}
	at := f.files.Position(pos)
	m := &mutant{
		file: f.path, start: at.Offset, end: at.Offset + len(old), old: old, new: replacement, function: f.function, line: at.Line,
		source: strings.TrimSpace(strings.Split(string(f.source), "\n")[at.Line-1]),
	}
	m.text = append(m.text, f.source[:m.start]...)
	m.text = append(m.text, m.new...)
	m.text = append(m.text, f.source[m.end:]...)
	key := f.function + m.source + m.change()
	f.seen[key]++
	m.nth = f.seen[key]
	f.mutants = append(f.mutants, m)
}
