package systemd

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/node/k3s"
)

const (
	serverToken = "server-secret-4d1f"
	agentToken  = "agent-secret-9b7a"
)

func founder() k3s.Spec {
	return k3s.Spec{
		Role: k3s.Server, ClusterInit: true, ServerToken: serverToken, AgentToken: agentToken, NodeName: "n1",
		NodeIP: netip.MustParseAddr("10.1.0.1"),
		Args:   []string{"--disable traefik", `--node-label "a=100% $HOME"`},
		Env:    map[string]string{"HTTP_PROXY": "http://proxy:3128", "ODD": "it's \"$HOME\" 100% \\ `id`"},
	}
}

func worker() k3s.Spec {
	return k3s.Spec{
		Role: k3s.Agent, Join: "https://10.1.0.1:6443", CAHash: strings.Repeat("ab", 32), AgentToken: agentToken, NodeName: "n1",
	}
}

// drive runs the driver in the container, as an agent that has just started.
func (c *container) drive(verb string, spec *k3s.Spec) k3s.State {
	c.t.Helper()
	args := []string{"/shared/driver", verb}
	if spec != nil {
		text, err := json.Marshal(spec)
		require.NoError(c.t, err)
		args = append(args, string(text))
	}
	var said struct{ State k3s.State }
	out := c.run(args...)
	require.NoError(c.t, json.Unmarshal([]byte(out), &said), out)
	return said.State
}

func (c *container) starts() []start {
	text, err := os.ReadFile(filepath.Join(c.shared, "starts"))
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(c.t, err)
	var all []start
	for _, line := range strings.SplitAfter(string(text), "\n") {
		if strings.HasSuffix(line, "\n") { // else it is being written
			var s start
			require.NoError(c.t, json.Unmarshal([]byte(line), &s))
			all = append(all, s)
		}
	}
	return all
}

func (c *container) waitStarts(n int) start {
	c.t.Helper()
	c.eventually(waitDeadline, "start "+strconv.Itoa(n), func() bool { return len(c.starts()) >= n })
	return c.starts()[n-1]
}

func (c *container) alive(pid int) bool {
	_, err := c.try("test", "-e", "/proc/"+strconv.Itoa(pid))
	return err == nil
}

func (c *container) kill(pid int) {
	c.t.Helper()
	c.run("sh", "-c", "kill -KILL "+strconv.Itoa(pid)) // the shell's own
}

func TestK3sUnderSystemd(t *testing.T) {
	c := boot(t)
	spec := founder()

	// Started, and not waited for until it serves.
	state := c.drive("apply", &spec)
	require.True(t, state.Running)
	require.Equal(t, "v1.36.3+k3s1", state.Version)
	first := c.waitStarts(1)
	require.Equal(t, "activating", c.show("k3s", "ActiveState"))
	require.Equal(t, "notify", c.show("k3s", "Type"))
	require.NoError(t, os.WriteFile(filepath.Join(c.shared, "serve"), nil, 0o600))
	c.waitState("k3s", "active")

	// Every word as it was meant, and no secret where others can read it.
	require.Equal(t, []string{"server", "--disable", "traefik", "--node-label", "a=100% $HOME"}, first.Args)
	require.Contains(t, first.Env, "ODD="+spec.Env["ODD"])
	require.Contains(t, first.Env, "HTTP_PROXY=http://proxy:3128")
	shown := c.run("systemctl", "show", "k3s") + c.run("systemctl", "cat", "k3s") + strings.Join(append(first.Args, first.Env...), " ")
	require.NotContains(t, shown, serverToken)
	require.NotContains(t, shown, agentToken)
	require.NotContains(t, c.run("systemctl", "show", "k3s"), "it's")
	require.Equal(t, "600", strings.TrimSpace(c.run("stat", "-c", "%a", "/etc/rancher/k3s/config.yaml.d/50-muster.yaml")))

	// The agent restarts: K3s does not. It sees it running before it asks for it.
	require.True(t, c.drive("look", nil).Running)
	c.drive("apply", &spec)
	require.Equal(t, strconv.Itoa(first.PID), c.show("k3s", "MainPID"))
	require.Len(t, c.starts(), 1)

	// It restarts with another configuration: K3s does, too. The pods of the first
	// live on.
	changed := spec
	changed.Args = []string{"--disable servicelb"}
	c.drive("apply", &changed)
	renewed := c.waitStarts(2)
	require.Equal(t, []string{"server", "--disable", "servicelb"}, renewed.Args)
	c.waitState("k3s", "active")
	require.Equal(t, "no", c.show("k3s", "NeedDaemonReload"))
	require.True(t, c.alive(first.Shim))

	// A crash: systemd starts it again, with what was asked for last.
	c.kill(renewed.PID)
	second := c.waitStarts(3)
	require.Equal(t, []string{"server", "--disable", "servicelb"}, second.Args)
	c.waitState("k3s", "active")
	require.Equal(t, "process", c.show("k3s", "KillMode"))
	require.True(t, c.alive(first.Shim))

	// Stopped: it stays away, pods live on.
	require.False(t, c.drive("stop", nil).Running)
	require.Equal(t, "inactive", c.show("k3s", "ActiveState"))
	require.False(t, c.alive(second.PID))
	require.True(t, c.alive(second.Shim))
	require.Len(t, c.starts(), 3)

	// Another role: the other unit, and never both, not even between two attempts.
	c.drive("apply", &changed)
	third := c.waitStarts(4)
	c.kill(third.PID)
	c.eventually(waitDeadline, "systemd to wait between attempts", func() bool { return c.show("k3s", "SubState") == "auto-restart" })
	agent := worker()
	c.drive("apply", &agent)
	require.Equal(t, []string{"agent"}, c.waitStarts(5).Args)
	require.Equal(t, "inactive", c.show("k3s", "ActiveState"))
	c.waitState("k3s-agent", "active")

	// Wiped: nothing of the cluster runs or remains.
	c.drive("wipe", nil)
	for _, s := range c.starts() {
		require.False(t, c.alive(s.PID))
		require.False(t, c.alive(s.Shim))
	}
	c.run("test", "!", "-e", "/etc/rancher/k3s/config.yaml.d/50-muster.yaml")
	require.Empty(t, strings.TrimSpace(c.run("systemctl", "list-units", "--failed", "--no-legend", "k3s*")))
}

func TestAUnitOfTheImageGetsADropIn(t *testing.T) {
	c := boot(t)
	require.NoError(t, os.WriteFile(filepath.Join(c.shared, "serve"), nil, 0o600))
	// As K3s's installer and Kairos leave it, with a token of somebody else's.
	require.NoError(t, os.WriteFile(filepath.Join(c.shared, "k3s.service"), []byte(`[Unit]
Description=of the image
[Service]
Type=notify
EnvironmentFile=-/etc/default/k3s
KillMode=process
Restart=always
ExecStart=/usr/local/bin/k3s server --cluster-init
[Install]
WantedBy=multi-user.target
`), 0o644))
	c.run("cp", "/shared/k3s.service", "/etc/systemd/system/k3s.service")
	c.run("sh", "-c", "printf 'K3S_URL=https://elsewhere:6443\\nK3S_TOKEN=stranger\\nHTTPS_PROXY=http://proxy\\n' > /etc/default/k3s")
	c.run("systemctl", "daemon-reload")

	spec := founder()
	c.drive("apply", &spec)
	first := c.waitStarts(1)
	c.waitState("k3s", "active")
	require.Equal(t, "/etc/systemd/system/k3s.service", c.show("k3s", "FragmentPath"))
	require.Equal(t, "/run/systemd/system/k3s.service.d/50-muster.conf", c.show("k3s", "DropInPaths"))
	require.Equal(t, "of the image", c.show("k3s", "Description"))
	require.Equal(t, []string{"server", "--disable", "traefik", "--node-label", "a=100% $HOME"}, first.Args)
	env := strings.Join(first.Env, "\n")
	require.Contains(t, env, "HTTPS_PROXY=http://proxy")
	require.NotContains(t, env, "K3S_URL=")
	require.NotContains(t, env, "K3S_TOKEN=")
	require.False(t, c.drive("stop", nil).Running)
}
