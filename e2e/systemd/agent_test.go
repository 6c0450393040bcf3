package systemd

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// readyDeadline is what a first K3s server may take on a busy machine.
const readyDeadline = 3 * time.Minute

// programs returns the product and the K3s to run: MUSTER_BIN and K3S_BIN, else
// what the source says.
func programs(t *testing.T) (muster, k3s string) {
	t.Helper()
	muster, k3s = os.Getenv("MUSTER_BIN"), os.Getenv("K3S_BIN")
	if muster == "" {
		muster = filepath.Join(t.TempDir(), "muster")
		build := exec.Command("go", "build", "-trimpath", "-o", muster, "../../cmd/muster")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := build.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	if k3s == "" {
		build := exec.Command("../k3slab/build")
		build.Stderr = os.Stderr
		out, err := build.Output()
		require.NoError(t, err)
		k3s = strings.TrimSpace(string(out))
	}
	return muster, k3s
}

// status is what the test reads of `muster status -o json`.
type status struct {
	Phase      string
	Role       string
	Address    string
	WaitingFor []string `json:"waiting_for"`
}

func (c *container) status() status {
	c.t.Helper()
	var s status
	out, err := c.try("muster", "status", "-o", "json")
	if err != nil {
		return s // the agent is starting
	}
	require.NoError(c.t, json.Unmarshal([]byte(out), &s), out)
	return s
}

func (c *container) waitReady() {
	c.t.Helper()
	c.eventually(readyDeadline, "the node to be ready", func() bool {
		s := c.status()
		return s.Phase == "running" && len(s.WaitingFor) == 0
	})
}

// install makes the container a machine with our image: programs, unit and
// cloud-config.
func (c *container) install(muster, k3s string) {
	c.t.Helper()
	copyFile(c.t, muster, filepath.Join(c.shared, "muster"))
	copyFile(c.t, k3s, filepath.Join(c.shared, "k3s-real"))
	copyFile(c.t, "../../deploy/systemd/muster.service", filepath.Join(c.shared, "muster.service"))
	token, err := exec.Command(muster, "token", "generate").Output()
	require.NoError(c.t, err)
	require.NoError(c.t, os.WriteFile(filepath.Join(c.shared, "config.yaml"), []byte(`#cloud-config
hostname: n1
p2p:
  network_token: `+strings.TrimSpace(string(token))+`
  minimum_nodes: 1
  disable_dht: true
k3s:
  enabled: true
`), 0o600))
	c.run("sh", "-euc", `
		ip link add eth0 type veth peer name wall
		ip address add 192.168.77.1/24 dev eth0
		ip link set eth0 up; ip link set wall up
		mkdir -p /oem /etc/muster
		cp /shared/config.yaml /oem/90_custom.yaml
		install -m 755 /shared/muster /usr/bin/muster
		install -m 755 /shared/k3s-real /usr/bin/k3s
		install -m 644 /shared/muster.service /etc/systemd/system/muster.service
		# A container has no hardware to bind an identity to.
		mkdir -p /etc/systemd/system/muster.service.d
		printf '[Service]\nEnvironment=MUSTER_HARDWARE_ID=muster-e2e\n' > /etc/systemd/system/muster.service.d/hardware.conf
		systemctl daemon-reload`)
}

// The stand-in serves where no K3s can be had: what runs is its command line and
// join protocol, with a real API server, etcd and kubelet.
func TestAMachineUnderSystemdBecomesASite(t *testing.T) {
	muster, k3s := programs(t)
	t.Logf("K3s is %s", k3s)
	c := boot(t)
	c.install(muster, k3s)
	t.Cleanup(func() {
		if t.Failed() {
			for _, unit := range []string{"muster", "k3s"} {
				log, _ := c.try("journalctl", "--no-pager", "-n", "60", "-u", unit)
				t.Logf("%s:\n%s", unit, log)
			}
			t.Logf("status: %+v", c.status())
		}
	})
	c.run("systemctl", "enable", "--now", "muster.service")
	c.waitReady()
	require.Equal(t, "master", c.status().Role)
	require.Equal(t, "active", c.show("k3s", "ActiveState"))
	require.Contains(t, c.run("k3s", "kubectl", "get", "nodes", "--no-headers"), " Ready ")

	// The agent is killed, and stopped: K3s is the same all the time.
	pid := c.show("k3s", "MainPID")
	c.run("systemctl", "kill", "--signal=KILL", "muster")
	c.eventually(waitDeadline, "systemd to start the agent again", func() bool { return c.show("muster", "NRestarts") == "1" })
	c.waitReady()
	c.run("systemctl", "stop", "muster")
	require.Equal(t, "inactive", c.show("muster", "ActiveState"), "SIGTERM is a clean end")
	require.Equal(t, pid, c.show("k3s", "MainPID"))
	require.Equal(t, "active", c.show("k3s", "ActiveState"))
}
