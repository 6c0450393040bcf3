package scenario

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/vm"
)

// top is the repository.
const top = "../../.."

// program is the muster that makes disks and that is in the image, with muster-init beside it: MUSTER_BIN, else what the source says.
var program = sync.OnceValues(func() (string, error) {
	if given := os.Getenv("MUSTER_BIN"); given != "" {
		return given, nil
	}
	path := filepath.Join(work, "bin", "muster")
	for _, name := range []string{"muster", "muster-init"} {
		build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(filepath.Dir(path), name), top+"/cmd/"+name)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w: %s", name, err, out)
		}
	}
	return path, nil
})

// system is what version v1 of an image consists of: the image as the variants change it.
type system struct {
	name     string
	variants []string
}

var (
	whole = system{"whole", []string{"test"}}
	// bare is without K3s, which is half of all bytes, for machines that do not run it.
	bare = system{"bare", []string{"test", "k3s-dead"}}
)

// systemFor is what a machine needs.
func systemFor(k3s bool) system {
	if k3s {
		return whole
	}
	return bare
}

// osImage is a system as it was built.
type osImage struct {
	root   string // its tree
	layout string // the OCI layout of it
}

var built = struct {
	sync.Mutex
	images map[string]osImage
}{images: map[string]osImage{}}

// image returns what was built, and builds it the first time.
func (s system) image(t testing.TB) osImage {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if i, ok := built.images[s.name]; ok {
		return i
	}
	muster, err := program()
	require.NoError(t, err)
	said, err := exec.Command(top + "/e2e/vm/prepare").CombinedOutput()
	require.NoError(t, err, "prepare: %s", said)
	out := filepath.Join(work, s.name)
	args := []string{top + "/deploy/os/build"}
	for _, v := range s.variants {
		args = append(args, "--variant", v)
	}
	build := exec.Command("nice", args...)
	build.Env = append(os.Environ(), "OS_OUT="+out, "VERSION=v1", "MUSTER_BIN="+muster)
	build.Stderr = os.Stderr
	require.NoError(t, build.Run(), "build the image")
	if vm.ProbeKernel == "" { // machines of another system may be reading it
		vm.ProbeKernel = filepath.Join(out, "root/boot/vmlinuz")
	}
	i := osImage{root: filepath.Join(out, "root"), layout: filepath.Join(out, "layout")}
	built.images[s.name] = i
	return i
}

// newToken is a site of its own.
func newToken(t testing.TB) string {
	t.Helper()
	muster, err := program()
	require.NoError(t, err)
	out, err := exec.Command(muster, "token", "generate").Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

// siteConfig is the cloud-config of all of a site's machines.
func siteConfig(t testing.TB, machines int, k3s bool) string {
	t.Helper()
	return fmt.Sprintf(`#cloud-config
p2p:
  network_token: %s
  minimum_nodes: %d
  disable_dht: true
k3s:
  enabled: %t
upgrade:
  health_deadline: %s
`, newToken(t), machines, k3s, healthDeadline)
}

// emulatedCmdline spares an emulated machine a fifth of its time: without it every look at the clock is an exit to a device.
const emulatedCmdline = "tsc=reliable mitigations=off"

// disk makes the disk of version v1 with a configuration, as a user does.
func (s system) disk(t testing.TB, name, config string) string {
	t.Helper()
	muster, err := program()
	require.NoError(t, err)
	image := s.image(t)
	path := filepath.Join(work, name+".raw")
	cmd := exec.CommandContext(t.Context(), muster, "deploy", "disk", "--image", "ocifile:"+image.layout, "--config", "-", "--firmware", "both", "--size", "6G", "--cmdline", emulatedCmdline, "--out", path)
	cmd.Stdin = strings.NewReader(config)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

// savedReady is the snapshot in the formedDisk: the machine as it ran before it was powered off.
const savedReady = "ready"

// formed is a bare machine that has booted, is a site of its own and proved its image good. It goes on where such a one was saved, which takes
// seconds where a boot takes a minute.
func formed(t testing.TB, opts vm.Options) *machine {
	t.Helper()
	dir, err := os.MkdirTemp(work, "disk-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	opts.Disk, opts.Snapshot = filepath.Join(dir, "disk.qcow2"), savedReady
	require.NoError(t, vm.CopyDisk(context.Background(), formedDisk(t, bare), opts.Disk))
	m := start(t, opts)
	m.waitReady()
	return m
}

// The disks that many tests start from are made once, by the name of their system.
var disks = struct {
	sync.Mutex
	formed map[string]string
}{formed: map[string]string{}}

// formedDisk is that of a machine without Kubernetes that has booted once, is a site of its own, proved its image good and was powered off.
// Its machine must have the first MAC address of its network: the identity is bound to it.
func formedDisk(t testing.TB, s system) string {
	t.Helper()
	disks.Lock()
	defer disks.Unlock()
	if path, ok := disks.formed[s.name]; ok {
		return path
	}
	name := "formed-" + s.name
	m := start(t, vm.Options{Name: name, Disk: overlay(t, s.disk(t, name, siteConfig(t, 1, false)))})
	m.waitReady()
	m.waitGood()
	require.NoError(t, m.Save(t.Context(), savedReady))
	m.powerOff()
	path := filepath.Join(work, name+".qcow2")
	require.NoError(t, os.Rename(m.disk, path))
	disks.formed[s.name] = path
	return path
}

// overlay is a disk for one test.
func overlay(t testing.TB, base string) string {
	t.Helper()
	dir, err := os.MkdirTemp(work, "disk-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "disk.qcow2")
	require.NoError(t, vm.NewOverlay(context.Background(), base, path))
	return path
}
