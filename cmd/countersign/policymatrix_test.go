package main

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestPolicyMatrix(t *testing.T) {
	t.Parallel()
	bank := filepath.Join("..", "..", "deploy", "policy", "bank.yaml")
	for name, test := range map[string]struct {
		args []string
		want string
		code int // 0 for no error
	}{
		"text":                         {[]string{"--policy", bank}, "\n  PostTransfer ", 0},
		"Markdown":                     {[]string{"--policy", bank, "--format=markdown"}, "\n| PostTransfer |", 0},
		"HTML":                         {[]string{"--policy", bank, "--format=html"}, "<!DOCTYPE html>", 0},
		"a format that there is not":   {[]string{"--policy", bank, "--format=pdf"}, "", codeUsage},
		"no file, and no mesh":         {nil, "", 1},
		"a file that is not there":     {[]string{"--policy", bank + ".gone"}, "", 1},
		"descriptors that are not one": {[]string{"--policy", bank, "--descriptors", bank}, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := countersign(t, append([]string{"policy", "matrix"}, test.args...)...)
			code := 0
			if err != nil {
				code = exitCode(err)
			}
			if code != test.code || !strings.Contains(out, test.want) {
				t.Errorf("the code is %d with the error %v, want %d, and the output\n%s\nwant in it %q", code, err, test.code, out, test.want)
			}
		})
	}
}

func TestThePolicyCommandsAreInTheHelp(t *testing.T) {
	t.Parallel()
	out, err := countersign(t, "--help")
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"policy matrix", "policy graph", "policy diff"} {
		if !strings.Contains(out, "\n  "+command+" ") {
			t.Errorf("%q is not in the help:\n%s", command, out)
		}
	}
}
