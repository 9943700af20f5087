package compose

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"testing"
)

// inspected is what `docker inspect` says of a container, as far as it bears on what the container can do.
type inspected struct {
	ID    string `json:"Id"`
	Name  string
	State struct {
		Status   string
		ExitCode int
		Pid      int
		Health   *struct{ Status string }
	}
	RestartCount int
	Config       struct {
		User        string
		Image       string
		StopTimeout int
		Labels      map[string]string
		Healthcheck *struct{ Test []string }
	}
	HostConfig struct {
		ReadonlyRootfs bool
		Privileged     bool
		CapAdd         []string
		CapDrop        []string
		SecurityOpt    []string
		Memory         int64
		MemorySwap     int64
		PidsLimit      *int64
		NetworkMode    string
		PidMode        string
		IpcMode        string
		UTSMode        string
		UsernsMode     string
		CgroupnsMode   string
		Devices        []any
		DeviceRequests []any
		GroupAdd       []string
		Sysctls        map[string]string
		VolumesFrom    []string
		Tmpfs          map[string]string
		Links          []string
		ExtraHosts     []string
		OomKillDisable *bool
		MaskedPaths    []string
		ReadonlyPaths  []string
		PortBindings   map[string][]struct{ HostIP, HostPort string }
		RestartPolicy  struct{ Name string }
	}
	Mounts []struct {
		Type        string
		Name        string
		Source      string
		Destination string
		RW          bool
	}
	NetworkSettings struct {
		Networks map[string]struct {
			IPAddress string
			Aliases   []string
		}
	}
}

// inspect asks Docker about things of one kind.
func inspect[T any](t *testing.T, kind string, names ...string) []T {
	t.Helper()
	var found []T
	if err := json.Unmarshal([]byte(docker(t, append([]string{kind, "inspect"}, names...)...)), &found); err != nil {
		t.Fatal(err)
	}
	return found
}

func owner(h *tar.Header) string { return fmt.Sprintf("%d:%d", h.Uid, h.Gid) }
