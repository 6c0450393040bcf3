package k3s

import (
	"maps"
	"slices"
	"strings"
)

// agentOnly are the variables by which a service manager speaks to the agent.
// K3s would answer in its place: a READY=1 of K3s is not one of the agent.
var agentOnly = []string{
	"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "INVOCATION_ID",
	"JOURNAL_STREAM", "MANAGERPID", "SYSTEMD_EXEC_PID", "CREDENTIALS_DIRECTORY",
}

// environment is what a K3s that the agent starts itself gets: the agent's own
// variables without those that are the agent's alone or would decide in the
// site's place, and then the user's.
func environment(own []string, user map[string]string) []string {
	var env []string
	for _, variable := range own {
		name, _, _ := strings.Cut(variable, "=")
		if reservedEnv[name] || slices.Contains(agentOnly, name) || strings.HasPrefix(name, "MUSTER_") {
			continue
		}
		env = append(env, variable)
	}
	for _, name := range sortedKeys(user) {
		env = append(env, name+"="+user[name])
	}
	return env
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
