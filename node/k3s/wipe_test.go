package k3s

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

var wipeTime = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

const keptName = "/storage-20261120T120000.000Z"

// aNodeWithACluster fills the machine with what K3s leaves on it.
func aNodeWithACluster(m *machine) {
	for _, path := range []string{
		configFile, mainConfig, adminKubeconfig, "/etc/rancher/k3s/registries.yaml", "/etc/rancher/node/password", cniState + "/networks/cbr0/10.42.0.2",
		dataDir + "/server/db/etcd/member/snap/db", dataDir + "/server/db/snapshots/s1", serverCA, dataDir + "/server/cred/passwd",
		dataDir + "/server/token", dataDir + "/server/agent-token", dataDir + "/server/node-token", dataDir + "/server/manifests/mine.yaml",
		dataDir + "/agent/client-kubelet.crt", dataDir + "/agent/etc/k3s-agent-load-balancer.json", kubeletKubeconfig,
		dataDir + "/agent/pod-manifests/vip.yaml", dataDir + "/agent/containerd/layer", dataDir + "/agent/images/airgap.tar.zst",
		dataDir + "/data/hash/bin/tool", storage + "/pvc-1/data", storage + "/pvc-2/data",
	} {
		m.write(path, "x")
	}
}

func (m *machine) tree() []string {
	var all []string
	require.NoError(m.t, filepath.WalkDir(m.root, func(path string, e fs.DirEntry, err error) error {
		if name := strings.TrimPrefix(path, m.root); err == nil && !e.IsDir() && name != "/usr/bin/k3s" {
			all = append(all, name)
		}
		return err
	}))
	slices.Sort(all)
	return all
}

func TestS17AWipeRemovesWhatTiesToAClusterAndKeepsTheRest(t *testing.T) {
	m := newMachine(t)
	aNodeWithACluster(m)
	kept, err := wipe(m.root, wipeTime)
	require.NoError(t, err)
	require.Equal(t, dataDir+keptName, kept)
	rest := []string{
		mainConfig, "/etc/rancher/k3s/registries.yaml", dataDir + "/agent/containerd/layer", dataDir + "/agent/images/airgap.tar.zst",
		dataDir + "/data/hash/bin/tool", dataDir + "/server/manifests/mine.yaml", kept + "/pvc-1/data", kept + "/pvc-2/data",
	}
	require.ElementsMatch(t, rest, m.tree())

	kept, err = wipe(m.root, wipeTime)
	require.NoError(t, err, "twice is fine")
	require.Empty(t, kept)
	require.ElementsMatch(t, rest, m.tree())
}

func TestAWipeOfAnEmptyMachineIsFine(t *testing.T) {
	kept, err := wipe(t.TempDir(), wipeTime)
	require.NoError(t, err)
	require.Empty(t, kept)
}

func TestAnInterruptedWipeIsFinishedByTheNext(t *testing.T) {
	for _, done := range append(slices.Clone(wiped), storage, agentDir+"/etc", kubeletKubeconfig) {
		m := newMachine(t)
		aNodeWithACluster(m)
		require.NoError(t, os.RemoveAll(m.path(done)))
		_, err := wipe(m.root, wipeTime)
		require.NoError(t, err)
		for _, path := range wiped {
			require.NoFileExists(t, m.path(path), done)
		}
		require.NoFileExists(t, m.path(kubeletKubeconfig))
	}
}

func TestVolumesOnADiskOfTheirOwnAreMovedAsideOnIt(t *testing.T) {
	m := newMachine(t)
	require.NoError(t, os.MkdirAll(m.path(storage), 0o755))
	smallDisk(t, m.path(storage))
	m.write(storage+"/pvc-1/data", "mine")
	kept, err := wipe(m.root, wipeTime)
	require.NoError(t, err)
	require.Equal(t, storage+keptName, kept)
	requireFile(t, m.path(kept+"/pvc-1/data"), "mine")
	kept, err = wipe(m.root, wipeTime.Add(time.Hour))
	require.NoError(t, err)
	require.Empty(t, kept, "what was kept once is not moved again")
}

func TestADatastoreOnADiskOfItsOwnIsEmptied(t *testing.T) {
	m := newMachine(t)
	require.NoError(t, os.MkdirAll(m.path(dataDir+"/server/db"), 0o755))
	smallDisk(t, m.path(dataDir+"/server/db"))
	m.write(dataDir+"/server/db/etcd/x", "x")
	_, err := wipe(m.root, wipeTime)
	require.NoError(t, err)
	requireEmpty(t, m.path(dataDir+"/server/db"))
}

// K3s leaves containers running when it stops. A volume that one of them has
// mounted is the user's, whatever path it is mounted on.
func TestAWipeEndsPodsAndDoesNotReachThroughTheirMounts(t *testing.T) {
	m := newMachine(t)
	aNodeWithACluster(m)
	shimPath := m.path(dataDir + "/data/hash/bin/containerd-shim-runc-v2")
	installFake(t, shimPath)
	shim := exec.Command(shimPath)
	out, err := shim.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, shim.Start())
	line := make([]byte, 16)
	n, err := out.Read(line)
	require.NoError(t, err)
	container, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	require.NoError(t, err)

	pod := "/var/lib/kubelet/pods/a b/volumes/local/pvc-1"
	require.NoError(t, os.MkdirAll(m.path(pod), 0o755))
	require.NoError(t, unix.Mount(m.path(storage+"/pvc-1"), m.path(pod), "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(m.path(pod), unix.MNT_DETACH) }) // gone when the test succeeded

	kept, err := m.driver(fast).Wipe(t.Context())
	require.NoError(t, err)
	_ = shim.Wait() // says that it was killed
	require.False(t, alive(shim.Process.Pid))
	require.False(t, alive(container))
	requireFile(t, m.path(kept+"/pvc-1/data"), "x")
	requireEmpty(t, m.path(pod))
}
