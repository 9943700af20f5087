package policy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"

	"github.com/countersign-mesh/countersign/pkg/yamlfile"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

// Source is the text that a policy is made of: the main file, and those that it includes. It is immutable.
type Source struct {
	// files has the main file first, and then those that it includes, in its order.
	files []sourceFile
}

// sourceFile is one file. Of one that could not be read there is the error.
type sourceFile struct {
	Name string
	Text []byte
	err  error
}

// Text returns the source of a policy of one file. name is the file's name in errors and verdicts.
func Text(name string, text []byte) Source {
	return Source{files: []sourceFile{{Name: name, Text: text}}}
}

// Read reads the policy file at path, and the files that it includes. Its error is that of the main file; what else could not be read is for
// Compile to say, together with all else that is wrong.
func Read(path string) (Source, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Source{}, fmt.Errorf("read the policy: %w", err)
	}
	return Text(path, text).withIncluded(), nil
}

// Again reads a source that Read gave once more. A process does so several times a second all its life, and what that allocates is what it grows by at rest: a file
// that is as it was is neither kept again nor parsed to find what it includes, which follows from its text.
func (s Source) Again() (Source, error) {
	main := s.files[0]
	if !main.unchanged() {
		return Read(main.Name)
	}
	files := []sourceFile{main}
	for _, included := range s.files[1:] {
		if !included.unchanged() {
			included = readFile(included.Name)
		}
		files = append(files, included)
	}
	return Source{files: files}, nil
}

// WithMain returns the source with another text of the main file, and what that includes.
func (s Source) WithMain(text []byte) Source { return Text(s.files[0].Name, text).withIncluded() }

// Main returns the text of the main file.
func (s Source) Main() []byte { return s.files[0].Text }

// Names returns the names of the files, the main one first.
func (s Source) Names() []string {
	var names []string
	for _, f := range s.files {
		names = append(names, f.Name)
	}
	return names
}

// Files yields the name and the text of each file that could be read, the main one first.
func (s Source) Files() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for _, f := range s.files {
			if f.err == nil && !yield(f.Name, f.Text) {
				return
			}
		}
	}
}

// withIncluded reads what the main file includes. Where that file is wrong, there is nothing to be read: Compile says what is wrong with it.
func (s Source) withIncluded() Source {
	main := s.files[0]
	var file policyv1.Policy
	if _, err := yamlfile.Unmarshal(main.Name, main.Text, &file); err != nil {
		return s
	}
	files := []sourceFile{main}
	for _, include := range file.GetInclude() {
		if !filepath.IsLocal(include.GetFile()) {
			continue // Compile refuses it
		}
		files = append(files, readFile(filepath.Join(filepath.Dir(main.Name), include.GetFile())))
	}
	return Source{files: files}
}

func readFile(path string) sourceFile {
	text, err := os.ReadFile(path)
	return sourceFile{Name: path, Text: text, err: err}
}

// unchanged reports whether the file can be read and has the same text. It does not keep what it reads.
func (f sourceFile) unchanged() bool {
	if f.err != nil {
		return false
	}
	file, err := os.Open(f.Name)
	if err != nil {
		return false
	}
	defer file.Close()
	part, rest := make([]byte, 1024), f.Text
	for {
		n, err := file.Read(part)
		if !bytes.HasPrefix(rest, part[:n]) {
			return false
		}
		rest = rest[n:]
		if err != nil {
			return err == io.EOF && len(rest) == 0
		}
	}
}

// find returns an included file.
func (s Source) find(name string) (sourceFile, bool) {
	for _, f := range s.files[1:] {
		if f.Name == name {
			return f, true
		}
	}
	return sourceFile{}, false
}

// Equal reports whether two sources are the same files with the same text, or cannot be read in the same way.
func (s Source) Equal(other Source) bool {
	return slices.EqualFunc(s.files, other.files, func(a, b sourceFile) bool {
		return a.Name == b.Name && bytes.Equal(a.Text, b.Text) && (a.err == nil) == (b.err == nil)
	})
}

// version names the source by its text. The version of a single file is the beginning of its SHA-256, as anybody can compute it.
func (s Source) version() string {
	if len(s.files) == 1 {
		return digest(s.files[0].Text)
	}
	var parts [][]byte
	for _, f := range s.files { // each with its length, so that no text can pass for the end of one and the beginning of the next
		parts = append(parts, binary.BigEndian.AppendUint64(nil, uint64(len(f.Text))), f.Text)
	}
	return digest(parts...)
}
