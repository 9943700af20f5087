package compose

import (
	"archive/tar"
	"debug/elf"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// images are the targets of deploy/Dockerfile.
func images() []string {
	return []string{"authority", "gateway", "accounts", "payments", "ledger", "risk", "audit", "login", "countersign"}
}

const maxImage = 40 << 20

// testImages looks at every image and at every file in it.
func testImages(t *testing.T, _ *project) {
	for _, name := range images() {
		image := inspect[struct {
			Size         int64
			Architecture string
			Config       struct {
				User       string
				Entrypoint []string
				Labels     map[string]string
			}
		}](t, "image", "countersign/"+name)[0]
		t.Logf("%-12s %.1f MiB, %s", name, float64(image.Size)/(1<<20), image.Architecture)
		if image.Size > maxImage {
			t.Errorf("%s: %d bytes, want at most %d", name, image.Size, maxImage)
		}
		user := "65532:65532"
		if name == "authority" {
			user = "65531:65531"
		}
		if image.Config.User != user || !slices.Equal(image.Config.Entrypoint, []string{"/" + name}) || image.Config.Labels["org.opencontainers.image.title"] == "" {
			t.Errorf("%s: the configuration is not as promised: %+v", name, image.Config)
		}
		want := map[string]string{name: "0:0", "etc/ssl/certs/ca-certificates.crt": "0:0"}
		switch name {
		case "gateway":
		case "countersign":
			want["policy/"], want["bundle/"], want["edge/"], want["edge-root/"] = user, user, user, user
		default:
			want["data/"] = user
		}
		if got := files(t, "countersign/"+name, name, elf.EM_NONE); !equal(got, want) {
			t.Errorf("%s: want the files and owners %v, got %v", name, want, got)
		}
	}
}

// TestArm64 looks at images that were built for the other platform. They cannot be run here, and need not be.
func TestArm64(t *testing.T) {
	tag := os.Getenv("COUNTERSIGN_IMAGES_ARM64")
	if tag == "" {
		t.Skip("SKIP: COUNTERSIGN_IMAGES_ARM64 is not set; right would be the tag of images for linux/arm64, as `make compose-arm64` builds them")
	}
	for _, name := range images() {
		image := "countersign/" + name + ":" + tag
		if got := docker(t, "image", "inspect", "--format={{.Os}}/{{.Architecture}}", image); got != "linux/arm64" {
			t.Errorf("%s is for %s", image, got)
		}
		files(t, image, name, elf.EM_AARCH64)
	}
}

func equal(got, want map[string]string) bool {
	if len(got) != len(want) {
		return false
	}
	for name, owner := range want {
		if got[name] != owner {
			return false
		}
	}
	return true
}

// runtimes are files that Docker makes in every container.
var runtimes = []string{".dockerenv", "dev", "proc", "sys", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab"}

// files returns the files of an image, each with its owner, and the directories that are not root's. The binary must be static,
// and for a machine unless that is EM_NONE.
func files(t *testing.T, image, name string, machine elf.Machine) map[string]string {
	t.Helper()
	// Docker warns of an image for another platform than this one, unless that is what was asked for.
	platform := docker(t, "image", "inspect", "--format={{.Os}}/{{.Architecture}}", image)
	id := docker(t, "create", "--platform="+platform, image)
	defer docker(t, "rm", id)
	export := exec.CommandContext(t.Context(), "docker", "export", id)
	out, err := export.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := export.Start(); err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	r := tar.NewReader(out)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode&0o022 != 0 && !runtime(h.Name) && h.Typeflag != tar.TypeSymlink {
			t.Errorf("%s: /%s can be written by others: %o", name, h.Name, h.Mode)
		}
		owner := owner(h)
		if runtime(h.Name) || h.Typeflag == tar.TypeDir && owner == "0:0" {
			continue
		}
		found[h.Name] = owner
		if h.Name == "data/" && h.Mode&0o777 != 0o700 {
			t.Errorf("%s: /data has mode %o, want 700", name, h.Mode)
		}
		if h.Name == name {
			static(t, r, machine)
		}
	}
	if err := export.Wait(); err != nil {
		t.Fatal(err)
	}
	return found
}

func runtime(name string) bool {
	name = path.Clean(name)
	return slices.ContainsFunc(runtimes, func(r string) bool { return name == r || strings.HasPrefix(name, r+"/") })
}

// static wants a binary that asks for no loader, for a machine unless it is EM_NONE.
func static(t *testing.T, binary io.Reader, machine elf.Machine) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "binary")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, binary); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	parsed, err := elf.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer parsed.Close()
	for _, p := range parsed.Progs {
		if p.Type == elf.PT_INTERP {
			t.Errorf("the binary is not static: it asks for a loader")
		}
	}
	if machine != elf.EM_NONE && parsed.Machine != machine {
		t.Errorf("the binary is for %v, want %v", parsed.Machine, machine)
	}
}
