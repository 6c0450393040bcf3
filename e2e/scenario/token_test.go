package scenario

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Who has another token is on the same LAN and as far away as the moon.
func TestNodeWithAnotherTokenIsNeverSeen(t *testing.T) {
	t.Parallel()
	config := newConfig(t)
	config.NoK3s = true
	stranger := newConfig(t)
	stranger.NoK3s = true
	s := site(t, 3, config, nodeConfig(t, "n3", stranger))
	s.waitReady(formTime, "n1", "n2")

	// One more with the right token, so that there was time to be found.
	added, err := s.Add(t.Context(), 1)
	require.NoError(t, err)
	s.waitReady(formTime, added...)
	s.requireSees("n1", "n1", "n2", added[0])
	s.requireSees("n2", "n1", "n2", added[0])
	s.requireSees("n3", "n3")

	why := s.waitWhy(soonTime, "n3", "1 more node")
	secrets := map[string]string{"network token": config.Token, "stranger's token": stranger.Token}
	requireNoPart(t, secrets, "why", why)
	for _, name := range []string{"n1", "n2", "n3"} {
		s.requireClean(secrets, "log of "+name, s.agentLog(name))
	}
}

// requireSees makes sure that the agent of a node lists exactly these nodes.
func (s *testSite) requireSees(name string, others ...string) {
	s.t.Helper()
	list, err := s.Seen(s.t.Context(), name)
	require.NoError(s.t, err)
	var got, want []string
	for _, row := range list {
		got = append(got, row.ID)
	}
	rows := s.rows()
	for _, other := range others {
		want = append(want, rows[other].ID)
	}
	require.ElementsMatch(s.t, want, got, "whom %s sees", name)
}

func TestAgentRefusesATruncatedToken(t *testing.T) {
	t.Parallel()
	config := newConfig(t)
	whole := config.Token
	config.Token = whole[:len(whole)-7]
	s := site(t, 1, config)
	answer := s.refused(2, "n1", "muster", "agent")
	require.Contains(t, answer, "network_token")
	require.Regexp(t, `checksum|length|encoding`, answer)
	requireNoPart(t, map[string]string{"network token": whole}, "the refusal", answer)
	require.NoDirExists(t, filepath.Join(s.NodeDir("n1"), "usr-local", ".muster"))

	// The agent that the node started at boot said the same.
	s.eventually(soonTime, "the agent at boot refuses too", func() error {
		if log := s.agentLog("n1"); log == "" {
			return fmt.Errorf("its log is empty")
		}
		if pid := s.rows()["n1"].AgentPID; pid != 0 {
			return fmt.Errorf("it runs as process %d", pid)
		}
		return nil
	})
	s.requireClean(map[string]string{"network token": whole}, "log", s.agentLog("n1"))
}

// A cloud-config that was made for Kairos keeps its token.
func TestSiteFormsWithATokenMadeByEdgeVPN(t *testing.T) {
	t.Parallel()
	config := newConfig(t)
	config.Token = edgeVPNToken()
	config.NoK3s = true
	s := site(t, 2, config)
	s.waitReady(formTime)
	require.Len(t, s.byRole()["master"], 1)
	require.Len(t, s.byRole()["worker"], 1)
	s.requireOneSite(2)
	for _, name := range []string{"n1", "n2"} {
		s.requireClean(map[string]string{"network token": config.Token}, "log of "+name, s.agentLog(name))
	}
}

// edgeVPNToken is one as `edgevpn -g -b` prints it: base64 of YAML with keys of
// 43 characters (base32 of random bytes there too).
func edgeVPNToken() string {
	key := func() string {
		raw := make([]byte, 27)
		_, _ = rand.Read(raw) // never fails (crypto/rand)
		return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(raw)[:43]
	}
	yaml := fmt.Sprintf(`otp:
  dht:
    interval: 9000
    key: %s
    length: 43
  crypto:
    interval: 9000
    key: %s
    length: 43
room: %s
rendezvous: %s
mdns: %s
max_message_size: 20971520
`, key(), key(), key(), key(), key())
	return base64.StdEncoding.EncodeToString([]byte(yaml))
}
