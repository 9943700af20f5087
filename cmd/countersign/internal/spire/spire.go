// Package spire is what the CLI knows of SPIRE, the SPIFFE runtime environment, which takes the embedded authority's place: how a node is
// given something to attest with, how server and agent are configured, and how the server is told of the entries of a registration file.
//
// An agent attests by the plugin x509pop, with a certificate that says by its common name which node it runs on. The workload entries
// have no agent for a parent but the node: an entry of its own ("node alias") gives the node's SPIFFE ID to every agent that attests under
// that name. So entries outlive agents: one that attests with a new certificate is another agent to SPIRE, on the same node.
package spire

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

// nodePattern is what a node may be called: its name is a part of a SPIFFE ID, of entry IDs and of file names.
const nodePattern = `^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`

// CheckNode says what is wrong with a node's name.
func CheckNode(name string) error {
	if !regexp.MustCompile(nodePattern).MatchString(name) {
		return fmt.Errorf("%q is no name of a node; right would be 1 to 63 lower-case letters, digits and hyphens, such as laptop", name)
	}
	return nil
}

// writeFile writes a file so that a reader, and whoever comes after a crash, sees the old content or the new one, whole.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Chmod(mode), file.Sync(), file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}
