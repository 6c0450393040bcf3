package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/roles"
)

func TestStagesRunOncePerBootAndTheirFailuresAreSaid(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "ran")
	a := newTestAgent(t, "box", loopback(testToken(t), "", 1)+`
stages:
  kairos-agent.bootstrap:
  - commands: ["echo bootstrap >> `+file+`"]
  provider-kairos.bootstrap.before.master/ha:
  - commands: ["echo before >> `+file+`"]
  provider-kairos.bootstrap.after.master/ha:
  - commands: ["echo after >> `+file+`"]
  provider-kairos.bootstrap.before.worker:
  - name: broken
    commands: ["echo broken >> `+file+`; exit 3"]
`)
	ran := func() string {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		return strings.Join(strings.Fields(string(text)), " ")
	}
	a.start()
	a.until("running", func() bool { return a.phase().Phase == PhaseRunning })
	require.Equal(t, "bootstrap", ran())
	a.stop()
	a.start()
	a.until("running again", func() bool { return a.phase().Phase == PhaseRunning })
	require.Equal(t, "bootstrap", ran(), "the agent started again, the machine did not")

	started := 0
	start := func() error { started++; return nil }
	failed := errors.New("no k3s binary")
	require.ErrorIs(t, a.startKubernetes(t.Context(), roles.MasterHA, func() error { return failed }), failed)
	require.Equal(t, "bootstrap before", ran())
	for range 3 {
		require.NoError(t, a.startKubernetes(t.Context(), roles.MasterHA, start))
	}
	require.Equal(t, 3, started)
	require.Equal(t, "bootstrap before after", ran())

	for range 2 {
		require.NoError(t, a.startKubernetes(t.Context(), roles.Worker, start), "a failed stage does not stop the node")
	}
	require.Equal(t, "bootstrap before after broken", ran(), "nor is it run again")
	require.Contains(t, strings.Join(a.why(), "\n"), `stage provider-kairos.bootstrap.before.worker of the cloud-config failed`)
	require.Contains(t, strings.Join(a.why(), "\n"), "broken")
}
