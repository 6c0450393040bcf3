package agent

import "strings"

// secretFlags are the flags whose values K3s hides in the node-args annotation.
var secretFlags = map[string]bool{
	"token": true, "t": true, "agent-token": true, "vpn-auth": true, "datastore-endpoint": true, "etcd-s3-secret-key": true,
}

const hidden = "********"

// redact returns a copy of a command line without its secrets.
func redact(args []string) []string {
	out := append([]string{}, args...)
	for i, arg := range out {
		if !strings.HasPrefix(arg, "-") {
			continue
		}
		name, _, given := strings.Cut(arg, "=")
		if !secretFlags[strings.TrimLeft(name, "-")] {
			continue
		}
		if given {
			out[i] = name + "=" + hidden
		} else if i+1 < len(out) {
			out[i+1] = hidden
		}
	}
	return out
}
