package roles

import (
	"fmt"
	"strings"
)

const (
	// maxLabel is the length of a DNS label (RFC 1035), which a node's name has to be for the mesh DNS.
	maxLabel = 63

	// defaultNameTail is how many characters of the peer ID a machine without a hostname is called by.
	defaultNameTail = 8

	// distinctNameTail is how many characters of the peer ID tell two machines of one hostname apart.
	distinctNameTail = 5
)

// uniqueName returns the name of a member: its hostname, as one DNS label in lower case. Kubernetes needs names to be
// unique, and machines flashed from one image often share a hostname, so a name that is taken is refused and the end of
// the peer ID appended: the first holder keeps the plain name. (The beginning of a peer ID is the same on every node.)
func uniqueName(hostname string, id NodeID, taken func(string) bool) string {
	base := Label(hostname)
	if base == "" || base == "localhost" {
		base = withSuffix("muster", tail(id, defaultNameTail))
	}
	if !taken(base) {
		return base
	}
	for length := distinctNameTail; ; length += 4 {
		name := withSuffix(base, tail(id, length))
		if !taken(name) {
			return name
		}
		if length >= maxLabel || length >= len(id) {
			break
		}
	}
	for n := 2; ; n++ {
		if name := withSuffix(base, fmt.Sprint(n)); !taken(name) {
			return name
		}
	}
}

// Label returns the first label of a hostname with everything that DNS does not allow replaced or trimmed;
// empty when nothing is left.
func Label(hostname string) string {
	first, _, _ := strings.Cut(hostname, ".")
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		default:
			return '-'
		}
	}, first)
	return strings.Trim(clean[:min(len(clean), maxLabel)], "-")
}

func withSuffix(base, suffix string) string {
	room := max(0, maxLabel-1-len(suffix))
	return strings.Trim(strings.TrimRight(base[:min(len(base), room)], "-")+"-"+suffix, "-")
}

// tail returns the last letters and digits of an ID, n at most, in lower case.
func tail(id NodeID, n int) string {
	clean := strings.ReplaceAll(Label(string(id[max(0, len(id)-maxLabel):])), "-", "")
	return clean[max(0, len(clean)-n):]
}

func (s State) nameTaken(name string) bool {
	for _, m := range s.Members {
		if !m.Removed && s.Names[m.ID] == name {
			return true
		}
	}
	return false
}
