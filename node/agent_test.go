package node

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/roles"
)

// loopback is the configuration of a node that coordinates and touches neither
// the network nor Kubernetes.
func loopback(token, bootstrap string, minimum int) string {
	text := fmt.Sprintf(`k3s: {enabled: false}
p2p:
  network_token: %s
  minimum_nodes: %d
  vpn: {create: false, use: false}
`, token, minimum)
	if bootstrap != "" {
		text += "  bootstrap: [" + bootstrap + "]\n"
	}
	return text
}

func TestOneNodeFoundsASiteAloneAndComesBackToIt(t *testing.T) {
	a := newTestAgent(t, "box", loopback(testToken(t), "", 1))
	a.start()
	running := func() bool { return a.phase().Phase == PhaseRunning && len(a.why()) == 0 }
	a.until("running", running)
	before := a.status()
	require.Equal(t, roles.Master, before.Role)
	require.Equal(t, before.ID, before.Coordinator)
	require.Equal(t, []string{before.ID}, before.Voters)
	require.True(t, before.Quorum)

	a.stop()
	a.start()
	a.until("running", running)
	after := a.status()
	require.Equal(t, before.Site, after.Site)
	require.Equal(t, before.ID, after.ID)
	require.Equal(t, before.Address, after.Address)
	require.Equal(t, before.Role, after.Role)
}

func TestThreeIdenticalNodesFoundOneSiteAndComeBackToIt(t *testing.T) {
	token := testToken(t)
	first := newTestAgent(t, "n1", loopback(token, "", 3))
	first.start()
	first.until("somebody to wait for", func() bool { return len(first.why()) > 0 })
	bootstrap := first.bootstrap()
	all := []*testAgent{first, newTestAgent(t, "n2", loopback(token, bootstrap, 3)), newTestAgent(t, "n3", loopback(token, bootstrap, 3))}
	for _, a := range all[1:] {
		a.start()
	}
	settled := func(a *testAgent) {
		a.until("running", func() bool { return a.phase().Phase == PhaseRunning && a.status().Members == 3 && len(a.why()) == 0 })
	}
	for _, a := range all {
		settled(a)
	}
	before := roster(t, all[0])
	require.Len(t, before, 3)
	masters := 0
	for _, who := range before {
		if who.role == roles.Master {
			masters++
		}
	}
	require.Equal(t, 1, masters)
	for _, a := range all[1:] {
		require.Equal(t, before, roster(t, a), "all nodes know the same")
	}

	for _, a := range all {
		a.stop()
	}
	for i := range all {
		all[len(all)-1-i].start()
	}
	for _, a := range all {
		settled(a)
		require.Equal(t, before, roster(t, a), "everybody is what it was")
	}
}

type place struct {
	hostname string
	role     roles.Role
	address  string
}

func roster(t *testing.T, a *testAgent) map[string]place {
	t.Helper()
	rows, err := a.client().Nodes(t.Context())
	require.NoError(t, err)
	all := map[string]place{}
	for _, r := range rows {
		all[r.ID] = place{r.Hostname, r.Role, r.Address}
	}
	return all
}

func TestALatecomerIsLetInWithoutBeingAskedForAnything(t *testing.T) {
	token := testToken(t)
	founder := newTestAgent(t, "founder", loopback(token, "", 1))
	founder.start()
	late := newTestAgent(t, "late", loopback(token, founder.bootstrap(), 2)+"  join_only: true\n")
	founder.until("running", func() bool { return founder.phase().Phase == PhaseRunning })
	late.start()
	late.until("running", func() bool { return late.phase().Phase == PhaseRunning })
	require.Equal(t, roles.Worker, late.status().Role)
	require.Equal(t, founder.status().Site, late.status().Site)

	_, err := late.client().Kubeconfig(t.Context())
	var exit *ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, ExitRefused, exit.Code)
	require.ErrorContains(t, err, "founder", "names who holds it")
}

func TestASecondAgentOfAMachineChangesNothing(t *testing.T) {
	a := newTestAgent(t, "box", loopback(testToken(t), "", 1))
	a.start()
	a.until("running", func() bool { return a.phase().Phase == PhaseRunning })
	_, err := New(a.opts)
	require.ErrorIs(t, err, ErrRunning)
	_, err = a.client().Status(t.Context())
	require.NoError(t, err, "the first keeps its socket")
}

func TestAPortInUseIsSaidAndEverythingIsGivenBack(t *testing.T) {
	a := newTestAgent(t, "box", loopback(testToken(t), "", 2))
	a.start()
	a.until("a control plane", a.running)
	second := newTestAgent(t, "box", loopback(testToken(t), "", 2))
	second.opts.Port = a.opts.Port
	agent, err := New(second.opts)
	require.NoError(t, err)
	require.ErrorContains(t, agent.Run(t.Context()), "address already in use")
	third, err := New(second.opts)
	require.NoError(t, err, "the lock is free again")
	require.NoError(t, third.close())
}

func TestABadTokenTouchesNothing(t *testing.T) {
	a := newTestAgent(t, "box", "p2p:\n  network_token: none\n")
	_, err := New(a.opts)
	require.ErrorContains(t, err, "p2p.network_token")
	require.NoDirExists(t, a.opts.StateDir)
	require.NoDirExists(t, a.opts.RunDir)
}

func TestAMemberDoesNotCarryItsSiteIntoAnotherMesh(t *testing.T) {
	token := testToken(t)
	a := newTestAgent(t, "n1", loopback(token, "", 1))
	a.start()
	a.until("it is a member", func() bool {
		s, err := a.client().Status(t.Context())
		return err == nil && s.Site != ""
	})
	a.stop()

	a.opts.Config.P2P.NetworkID += "-other"
	_, err := New(a.opts)
	require.ErrorIs(t, err, ErrNetwork)
	require.NotContains(t, err.Error(), token)
}
