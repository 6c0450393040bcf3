package k3s

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
	"pgregory.net/rapid"
)

const (
	testServerToken = "server-secret-4d1f"
	testAgentToken  = "agent-secret-9b7a"
	testEndpoint    = "postgres://muster:db-secret@db.example:5432/k3s"
)

var testCA = strings.Repeat("ab", 32)

// initMaster is the first server of a site with several masters.
func initMaster() Spec {
	return Spec{
		Role: Server, ClusterInit: true, ServerToken: testServerToken, AgentToken: testAgentToken,
		NodeName: "muster-1", NodeIP: netip.MustParseAddr("10.1.0.1"), FlannelInterface: "muster0",
	}
}

func joiningServer() Spec {
	s := initMaster()
	s.ClusterInit, s.Join, s.CAHash = false, "https://10.1.0.1:6443", testCA
	s.NodeName, s.NodeIP = "muster-2", netip.MustParseAddr("10.1.0.2")
	return s
}

func worker() Spec {
	s := joiningServer()
	s.Role, s.ServerToken = Agent, ""
	s.NodeName, s.NodeIP = "muster-4", netip.MustParseAddr("10.1.0.4")
	return s
}

func with(s Spec, change func(*Spec)) Spec {
	change(&s)
	return s
}

func TestWrittenConfiguration(t *testing.T) {
	for name, spec := range map[string]Spec{
		"init-master":    initMaster(),
		"joining-server": joiningServer(),
		"agent":          worker(),
		"single-master":  with(initMaster(), func(s *Spec) { s.ClusterInit = false }),
		"external-datastore": with(initMaster(), func(s *Spec) {
			s.ClusterInit, s.DatastoreEndpoint = false, testEndpoint
		}),
		"embedded-registry": with(joiningServer(), func(s *Spec) { s.EmbeddedRegistry = true }),
		"no-vpn": with(worker(), func(s *Spec) {
			s.FlannelInterface, s.NodeIP = "", netip.Addr{}
		}),
		"tls-sans": with(initMaster(), func(s *Spec) {
			s.TLSSANs = []string{"192.168.7.9", "api.example", "192.168.7.9"}
		}),
		"replace-args": with(joiningServer(), func(s *Spec) {
			s.TLSSANs, s.ReplaceArgs, s.Args = []string{"192.168.7.9"}, true, []string{"--tls-san=mine"}
		}),
		"agent-replace-args": with(worker(), func(s *Spec) { s.ReplaceArgs, s.ReplaceEnv = true, true }),
		"ipv6":               with(worker(), func(s *Spec) { s.NodeIP = netip.MustParseAddr("fd00::4") }),
		"odd-characters": with(initMaster(), func(s *Spec) {
			s.ServerToken, s.AgentToken = "yes:\"it's\"#1%s", "0x10"
		}),
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, spec.Validate())
			text, err := spec.render()
			require.NoError(t, err)
			golden(t, name+".yaml", text)
		})
	}
}

// golden compares with a file under testdata, or writes it with UPDATE_GOLDEN=1.
func golden(t *testing.T, name string, text []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, text, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(text))
}

func TestEveryTokenSurvivesTheConfigurationFile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := initMaster()
		spec.ServerToken = rapid.StringMatching(`[!-~]{1,64}`).Draw(t, "token")
		require.NoError(t, spec.Validate())
		text, err := spec.render()
		require.NoError(t, err)
		again, err := spec.render()
		require.NoError(t, err)
		require.Equal(t, text, again, "an unchanged spec must give an unchanged file")
		var read map[string]any
		require.NoError(t, yaml.Unmarshal(text, &read))
		require.Equal(t, spec.ServerToken, read["token"])
	})
}

func TestSpecsThatK3sWouldMisunderstandAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		spec Spec
		says string
	}{
		"no role":                {with(worker(), func(s *Spec) { s.Role = "etcd" }), "neither server nor agent"},
		"founds and joins":       {with(initMaster(), func(s *Spec) { s.Join = "https://10.1.0.2:6443" }), "at once"},
		"founds what exists":     {with(initMaster(), func(s *Spec) { s.CAHash = testCA }), "not founded again"},
		"founds beside database": {with(initMaster(), func(s *Spec) { s.DatastoreEndpoint = testEndpoint }), "beside an external datastore"},
		"agent with datastore":   {with(worker(), func(s *Spec) { s.DatastoreEndpoint = testEndpoint }), "no datastore"},
		"agent founds":           {with(worker(), func(s *Spec) { s.ClusterInit = true; s.Join = "" }), "no datastore"},
		"agent of nobody":        {with(worker(), func(s *Spec) { s.Join = "" }), "needs a server"},
		"agent as server":        {with(worker(), func(s *Spec) { s.ServerToken = testServerToken }), "must not hold"},
		"server without token":   {with(initMaster(), func(s *Spec) { s.ServerToken = "" }), "needs the server token"},
		"no agent token":         {with(worker(), func(s *Spec) { s.AgentToken = "" }), "needs the agent token"},
		"one token for both":     {with(initMaster(), func(s *Spec) { s.AgentToken = s.ServerToken }), "make itself a server"},
		"token of two lines":     {with(initMaster(), func(s *Spec) { s.ServerToken = "a\nb" }), "one word"},
		"joins blindly":          {with(worker(), func(s *Spec) { s.CAHash = "" }), "whose CA is known"},
		"no hash":                {with(worker(), func(s *Spec) { s.CAHash = "abcd" }), "64 hexadecimal digits"},
		"joins in the clear":     {with(worker(), func(s *Spec) { s.Join = "http://10.1.0.1:6443" }), "https URL"},
		"no name":                {with(worker(), func(s *Spec) { s.NodeName = "" }), "needs a name"},
		"open quote":             {with(worker(), func(s *Spec) { s.Args = []string{`--node-label="a`} }), "quote"},
		"two lines":              {with(worker(), func(s *Spec) { s.Args = []string{"--a\n--b"} }), "one line"},
		"odd variable":           {with(worker(), func(s *Spec) { s.Env = map[string]string{"A B": "1"} }), "not the name"},
		"NUL":                    {with(worker(), func(s *Spec) { s.Env = map[string]string{"A": "\x00"} }), "NUL"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.spec.Validate()
			require.ErrorContains(t, err, c.says)
			requireNoSecrets(t, err.Error())
		})
	}
}

func TestASpecDoesNotSayItsSecrets(t *testing.T) {
	spec := with(initMaster(), func(s *Spec) {
		s.DatastoreEndpoint, s.Args, s.Env = testEndpoint, []string{"--etcd-s3-secret-key=" + testServerToken}, map[string]string{"A": testAgentToken}
	})
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		requireNoSecrets(t, fmt.Sprintf(format, spec))
		requireNoSecrets(t, fmt.Sprintf(format, &spec))
	}
	requireNoSecrets(t, spec.LogValue().String())
}

func requireNoSecrets(t testing.TB, text string) {
	t.Helper()
	for _, secret := range []string{testServerToken, testAgentToken, "db-secret"} {
		require.NotContains(t, text, secret)
	}
}
