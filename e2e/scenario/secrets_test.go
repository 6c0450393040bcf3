package scenario

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/stretchr/testify/require"
)

// secrets is what must not be found in this site outside the files that hold it:
// by name, so that a failure can say which without printing it.
func (s *testSite) secrets(config cloudConfig, master string) map[string]string {
	s.t.Helper()
	secrets := map[string]string{"network token": config.Token}
	for _, key := range []string{"token", "agent-token"} {
		value, ok := s.k3sConfig(master)[key].(string)
		require.True(s.t, ok, "the K3s configuration of %s has no %s", master, key)
		// K3s's secure form is K10HASH::USER:PASSWORD.
		secrets["K3s's "+key] = value[strings.LastIndex(value, ":")+1:]
	}
	for line := range strings.Lines(s.run(master, "muster", "kubeconfig")) {
		if key, found := strings.CutPrefix(strings.TrimSpace(line), "client-key-data:"); found {
			secrets["key of the kubeconfig"] = strings.TrimSpace(key)
		}
	}
	require.Len(s.t, secrets, 4)
	return secrets
}

// requireNoSecrets looks for the secrets where anybody may look: in all logs, in
// what processes show of themselves, and in what the command line prints.
func (s *testSite) requireNoSecrets(secrets map[string]string) {
	s.t.Helper()
	nodes, err := s.Nodes()
	require.NoError(s.t, err)
	for _, name := range nodes {
		s.requireClean(secrets, name+": agent's log", s.agentLog(name))
		s.requireClean(secrets, name+": process list", s.run(name, "/bin/sh", "-c", `cat /proc/[0-9]*/cmdline | tr '\000' ' '`))
		for _, args := range [][]string{
			{"muster", "ledger", "get", "-o", "json"},
			{"muster", "status", "-o", "json"},
			{"muster", "nodes", "-o", "json"},
			{"muster", "events"},
			{"muster", "policy", "show"},
			{"muster", "config", "show"},
		} {
			s.requireClean(secrets, name+": "+strings.Join(args, " "), s.run(name, args...))
		}
		err := filepath.WalkDir(filepath.Join(s.NodeDir(name), "var-log"), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			raw, err := os.ReadFile(path)
			requireNoPart(s.t, secrets, path, string(raw))
			return err
		})
		require.NoError(s.t, err)
	}
}

func (s *testSite) requireClean(secrets map[string]string, where, text string) {
	s.t.Helper()
	require.NotEmpty(s.t, text, where)
	requireNoPart(s.t, secrets, where, text)
}
