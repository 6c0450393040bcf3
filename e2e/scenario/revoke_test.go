package scenario

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A leaked token is replaced while the site runs: members stay, one that was off
// catches up, and from then on newcomers need the new one.
func TestS20AReplacedTokenLetsNobodyIn(t *testing.T) {
	t.Parallel()
	config := newConfig(t)
	config.NoK3s = true
	s := site(t, 3, config)
	s.waitReady(formTime)
	before := s.standings()
	master := s.byRole()["master"][0]
	away := s.others(master)[0]
	running := s.rows()

	require.NoError(t, s.Kill(t.Context(), away))
	s.refused(4, s.others(master, away)[0], "muster", "token", "rotate")
	token := strings.TrimSpace(s.run(master, "muster", "token", "rotate"))
	require.NotEqual(t, config.Token, token)
	require.Equal(t, token, strings.TrimSpace(s.run(master, "muster", "token", "show")))

	// The old token is good for a sentence and nothing else.
	added, err := s.Add(t.Context(), 1)
	require.NoError(t, err)
	newcomer := added[0]
	s.waitWhy(soonTime, newcomer, "this token was replaced")
	s.requireSees(newcomer, newcomer)

	require.NoError(t, s.Start(t.Context(), away))
	s.waitReady(soonTime, away)
	fresh := config
	fresh.Token = token
	require.NoError(t, s.Configure(t.Context(), newcomer, fresh.yaml(t)))
	require.NoError(t, s.Restart(t.Context(), newcomer))
	s.waitReady(soonTime, newcomer)
	for name, was := range running {
		require.Equal(t, before[name], s.standings()[name], name)
		if name != away {
			require.Equal(t, was.AgentPID, s.rows()[name].AgentPID, "%s was restarted", name)
		}
		s.eventually(soonTime, name+" keeps the new token for its next reset", func() error {
			info, err := os.Stat(filepath.Join(s.NodeDir(name), "oem", "muster", "token.json"))
			if err == nil && info.Mode().Perm() != 0o600 {
				err = fmt.Errorf("mode %v", info.Mode())
			}
			return err
		})
	}

	// Its configuration still has the old token, as every member's has.
	require.NoError(t, s.Wipe(t.Context(), away))
	require.NoError(t, s.Start(t.Context(), away))
	s.waitReady(soonTime, away)
	require.NotEqual(t, before[away].ID, s.standings()[away].ID)
	for _, name := range s.names() {
		s.requireClean(map[string]string{"first token": config.Token, "new token": token}, "log of "+name, s.agentLog(name))
	}
}

// A stolen node is out everywhere in seconds, and wiping it brings it back
// nowhere; a node that was off meanwhile comes back and does not speak to it.
func TestS20ARevokedNodeStaysOut(t *testing.T) {
	t.Parallel()
	config := newConfig(t)
	config.NoK3s = true
	s := site(t, 4, config)
	s.waitReady(formTime)
	before := s.standings()
	master := s.byRole()["master"][0]
	workers := s.others(master)
	stolen, away, witness := workers[0], workers[1], workers[2]
	s.run(witness, "ping", "-c", "1", "-w", "10", before[stolen].Address)

	require.NoError(t, s.Kill(t.Context(), away))
	heard := s.pingAll(witness, before[stolen].Address)
	asked := time.Now()
	token := strings.TrimSpace(s.run(master, "muster", "node", "revoke", before[stolen].Hostname, "--reason", "stolen from the shop"))
	s.eventually(soonTime, "the mesh carries nothing from "+stolen, func() error {
		if _, err := s.Exec(t.Context(), witness, "ping", "-c", "1", "-W", "1", before[stolen].Address); err == nil {
			return fmt.Errorf("%s still answers %s", stolen, witness)
		}
		return nil
	})
	t.Logf("revocation to last packet: %s", heard().Sub(asked).Round(10*time.Millisecond))
	for _, name := range []string{master, witness} {
		s.requireUnlisted(name, before[stolen].ID)
	}
	s.waitWhy(soonTime, stolen, "was revoked")

	// Who comes back hears of it first.
	require.NoError(t, s.Start(t.Context(), away))
	s.waitReady(soonTime, away)
	s.requireUnlisted(away, before[stolen].ID)
	_, err := s.Exec(t.Context(), away, "ping", "-c", "1", "-W", "1", before[stolen].Address)
	require.Error(t, err)

	// Another key does not help: the token that it knows is closed.
	require.NoError(t, s.Wipe(t.Context(), stolen))
	require.NoError(t, s.Start(t.Context(), stolen))
	s.waitWhy(soonTime, stolen, "this token was replaced")
	members, err := s.ledger(master, "member/")
	require.NoError(t, err)
	require.Len(t, members, 3)

	// With the new one the machine is a new node, under a new address.
	config.Token = token
	require.NoError(t, s.Configure(t.Context(), stolen, config.yaml(t)))
	require.NoError(t, s.Restart(t.Context(), stolen))
	s.waitReady(soonTime, stolen)
	again := s.standings()[stolen]
	require.NotEqual(t, before[stolen].ID, again.ID)
	require.Equal(t, "10.1.0.5", again.Address)
}

// K3s reads its agent token when it starts: the masters restart it one after another, and then nobody registers a node by what the stolen
// one knows.
func TestS20TheAgentTokenOfARevokedNodeOpensNothing(t *testing.T) {
	t.Parallel()
	config := newConfig(t)
	config.Masters = 2
	s := site(t, 4, config)
	s.waitReady(readyTime)
	masters, stolen := s.masters(), s.byRole()["worker"][0]
	token := func(name, key string) string {
		full := s.k3sConfig(name)[key].(string)
		return full[strings.LastIndex(full, ":")+1:]
	}
	answers := func(master, token, want string) error {
		out, err := s.Exec(t.Context(), master, "curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "-u", "node:"+token, "https://127.0.0.1:6443/v1-k3s/client-ca.crt")
		if err == nil && out != want {
			err = fmt.Errorf("%s answers %s, not %s", master, out, want)
		}
		return err
	}
	known := token(stolen, "token")
	for _, master := range masters {
		require.NoError(t, answers(master, known, "200"))
	}
	hostname := s.standings()[stolen].Hostname
	s.run(masters[0], "muster", "node", "revoke", hostname)
	s.eventually(readyTime, "Kubernetes has forgotten its Node", func() error {
		nodes, err := s.kubeNodes()
		if _, there := nodes[hostname]; err == nil && there {
			err = errors.New("it has not")
		}
		return err
	})
	for _, master := range masters {
		s.eventually(readyTime, master+" refuses the old agent token", func() error { return answers(master, known, "401") })
		s.eventually(soonTime, master+" takes the new one", func() error { return answers(master, token(masters[0], "agent-token"), "200") })
	}
	s.waitReady(readyTime, masters...)
	for _, master := range masters {
		require.Equal(t, 1, strings.Count(s.run(master, "muster", "events"), "K3s restarted"), master)
		require.Len(t, s.etcdMemberIDs(master), len(masters))
	}
	// K3s compares what it has on disk with the datastore, which knows the first token.
	require.NoError(t, s.Restart(t.Context(), masters[0]))
	s.waitReady(readyTime, masters...)
	require.NoError(t, answers(masters[0], known, "401"))
	require.NoError(t, answers(masters[0], token(masters[0], "agent-token"), "200"))
}

// requireUnlisted makes sure that a node does not count another among its site's.
func (s *testSite) requireUnlisted(name, id string) {
	s.t.Helper()
	list, err := s.Seen(s.t.Context(), name)
	require.NoError(s.t, err)
	require.NotEmpty(s.t, list)
	for _, row := range list {
		require.NotEqual(s.t, id, row.ID, "%s lists it", name)
	}
}
