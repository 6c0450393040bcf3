package scenario

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/e2e/lab"
)

// startRelay runs `muster relay` where every node reaches it and returns its peer ID.
func (s *testSite) startRelay(config cloudConfig) (id string) {
	s.t.Helper()
	dir := s.t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	require.NoError(s.t, os.WriteFile(file, config.yaml(s.t), 0o600))
	ns, err := s.SwitchNetNS()
	require.NoError(s.t, err)
	cmd := exec.Command("nsenter", "--net="+ns, binaries.muster, "relay", "--config", file, "--state-dir", filepath.Join(dir, "state"))
	cmd.Env = append(os.Environ(), "MUSTER_HARDWARE_ID=relay")
	stderr, err := cmd.StderrPipe()
	require.NoError(s.t, err)
	require.NoError(s.t, cmd.Start())
	lines := bufio.NewScanner(stderr)
	s.t.Cleanup(func() {
		require.NoError(s.t, cmd.Process.Signal(unix.SIGTERM))
		for lines.Scan() { //nolint:revive // read to its end, so that it can end
		}
		require.NoError(s.t, cmd.Wait(), "the relay ends as it should")
	})
	for lines.Scan() {
		if _, after, ok := strings.Cut(lines.Text(), "node="); ok && strings.Contains(lines.Text(), "relay is up") {
			return strings.Fields(after)[0]
		}
	}
	require.Fail(s.t, "the relay ended")
	return ""
}

// Nobody in this site can be reached by anybody: all that they have in common is a relay without a role.
func TestASiteFormsAndWorksThroughADedicatedRelay(t *testing.T) {
	t.Parallel()
	config := newConfig(t)
	config.NoK3s, config.MinimumNodes, config.Bootstrap = true, 3, []string{"/dns4/switch.lab/udp/4847/quic-v1"}
	s := site(t, 3, config, withoutK3sBinary, func(o *lab.Options) {
		o.NAT = map[string]lab.NAT{"n1": lab.NATRestricted, "n2": lab.NATSymmetric, "n3": lab.NATSymmetric}
	})
	relay := s.startRelay(config)
	s.waitReady(2 * formTime)
	s.requireOneSite(3)
	for _, pair := range [][2]string{{"n1", "n2"}, {"n1", "n3"}, {"n2", "n3"}} {
		s.waitPaths(pair[0], pair[1], "relay")
		s.run(pair[0], "ping", "-c", "1", "-w", "10", s.standings()[pair[1]].Address)
	}
	var rows []struct{ ID string }
	require.NoError(t, s.askJSON("n1", &rows, "muster", "nodes", "-o", "json"))
	for _, row := range rows {
		require.NotEqual(t, relay, row.ID, "a relay is no node")
	}
	require.Len(t, rows, 3)
}
