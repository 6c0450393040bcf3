package roles

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// maxShownID is the length up to which an ID is shown whole. Peer IDs are longer, and only their end tells them apart.
const maxShownID = 8

// shown names a node in a sentence: its hostname, and as much of its ID as it takes to tell machines of one hostname apart.
func shown(hostname string, id NodeID) string {
	short := string(id)
	if len(short) > maxShownID {
		short = "…" + short[len(short)-maxShownID:]
	}
	if hostname == "" || hostname == short {
		return short
	}
	return fmt.Sprintf("%s (%s)", hostname, short)
}

// shown names a node by its unique name when it has one.
func (s State) shown(id NodeID) string {
	if name := s.Names[id]; name != "" {
		return name
	}
	m, _ := s.member(id)
	return shown(m.Hostname, id)
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func list(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	if len(names) == 1 {
		return names[0]
	}
	names = slices.Clone(names)
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " and " + names[last]
}

// seconds drops what a person does not want to read.
func seconds(d time.Duration) time.Duration { return d.Truncate(time.Second) }
