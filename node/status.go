package node

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p"
	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// Row is a node as `muster nodes -o json` shows it. Scripts parse it: changes go
// into docs/CHANGELOG.md.
type Row struct {
	ID         string     `json:"id"`
	Hostname   string     `json:"hostname"`
	Role       roles.Role `json:"role"`
	Address    string     `json:"address"`
	Phase      Phase      `json:"phase"`
	Ready      bool       `json:"ready"`
	Path       Path       `json:"path"`
	Version    string     `json:"version"`
	K3sVersion string     `json:"k3s_version"`
	Slot       string     `json:"slot"`
	Image      string     `json:"image"`
	// ImageVersion is what people call the image.
	ImageVersion string `json:"image_version"`
	// LastSeen is when this node last had word of the other; now, while it is
	// seen alive.
	LastSeen time.Time `json:"last_seen"`
	Reason   string    `json:"reason"`
}

// Path says how packets reach a node.
type Path string

// The paths.
const (
	PathSelf   Path = "self"
	PathDirect Path = "direct"
	PathRelay  Path = "relay"
	PathLAN    Path = "lan"
	PathNone   Path = "none"
)

// Status is a node as `muster status -o json` shows it.
type Status struct {
	ID          string     `json:"id"`
	Hostname    string     `json:"hostname"`
	Site        string     `json:"site"`
	Phase       Phase      `json:"phase"`
	Role        roles.Role `json:"role"`
	Address     string     `json:"address"`
	Coordinator string     `json:"coordinator"`
	Voters      []string   `json:"voters"`
	Quorum      bool       `json:"quorum"`
	Members     int        `json:"members"`
	WaitingFor  []string   `json:"waiting_for"`
	Generation  uint64     `json:"generation"`
	Index       uint64     `json:"index"`
	Version     string     `json:"version"`
	VPN         string     `json:"vpn"`
	// CoordinatorHostname is for people; Coordinator is its ID.
	CoordinatorHostname string `json:"coordinator_hostname"`
	// Slot, Image and ImageVersion are what this machine was started from, and
	// Verdict what it thinks of it; empty where it was not from a slot.
	Slot         string  `json:"slot"`
	Image        string  `json:"image"`
	ImageVersion string  `json:"image_version"`
	Verdict      Verdict `json:"verdict"`

	// Conflicts are other sites with this token in sight, a sentence each.
	Conflicts []string `json:"conflicts"`
	Warnings  []string `json:"warnings"`
}

// status looks at this node now.
func (a *Agent) status() Status {
	s := Status{
		ID: a.identity.ID().String(), Hostname: a.hostname, Phase: a.phase().Phase, Version: Version,
		Voters: []string{}, Conflicts: []string{}, WaitingFor: a.why(), Warnings: append([]string{}, a.opts.Warnings...),
	}
	var own Facts
	a.image.tell(&own)
	s.Slot, s.Image, s.ImageVersion, s.Verdict = own.Slot, own.Image, own.ImageVersion, own.Verdict
	if !a.running() {
		return s
	}
	s.Conflicts = append(s.Conflicts, a.conflicts()...)
	rows := a.rows()
	s.Members = len(rows)
	a.mu.Lock()
	l, mesh := a.ledger, a.mesh
	a.mu.Unlock()
	if mesh != nil {
		s.VPN = string(mesh.vpn.Mode())
	}
	if l == nil {
		return s
	}
	s.Site, s.Generation, s.Index = l.Site().ID, ledger.GenerationNumber(l.Site().Generation), l.Index()
	s.Warnings = append(s.Warnings, a.drift(l)...)
	ls := l.Status()
	s.Quorum = ls.Quorum
	for _, v := range ls.Voters {
		s.Voters = append(s.Voters, v.String())
	}
	if id, ok := l.Coordinator(); ok {
		s.Coordinator, s.CoordinatorHostname = id.String(), a.nameOf(id)
	}
	for _, r := range rows {
		if r.ID == s.ID {
			s.Hostname, s.Role, s.Address = r.Hostname, r.Role, r.Address
		}
	}
	return s
}

// rows returns this node and everybody it knows: members of the site, or before
// there is one the nodes it gossips with.
func (a *Agent) rows() []Row {
	a.mu.Lock()
	membership, m, mesh := a.membership, a.member, a.mesh
	a.mu.Unlock()
	self := a.identity.ID()
	seen := map[peer.ID]p2p.MemberState{}
	known := []peer.ID{self}
	if membership != nil {
		for _, s := range membership.Members() {
			seen[s.ID] = s
			if m == nil && s.ID != self {
				known = append(known, s.ID)
			}
		}
	}
	var state roles.State
	if m != nil {
		// Decisions that do not decode are reported by the reconcilers; the
		// table then shows what is known of the nodes themselves.
		_, state, _ = m.view()
		known = append(known, m.members()...)
	}
	reached := mesh.reached()
	connected := map[peer.ID]bool{}
	for _, p := range a.host.Peers() {
		connected[p.ID] = true
	}
	var all []Row
	for _, id := range known {
		nodeID := roles.NodeID(id.String())
		f, _ := a.factsOf(id)
		r := Row{
			ID: id.String(), Hostname: cmp.Or(state.Names[nodeID], f.Hostname), Role: state.Roles[nodeID],
			Phase: f.Phase, Ready: f.Ready, Version: f.Version, K3sVersion: f.Kubernetes.Version,
			Slot: f.Slot, Image: f.Image, ImageVersion: f.ImageVersion, Reason: f.Reason, Path: PathSelf, LastSeen: time.Now().UTC(),
		}
		if address, ok := state.Addresses[nodeID]; ok {
			r.Address = address.String()
		}
		if id == self {
			// What this node is now, which it may not have published yet.
			phase := a.phase()
			r.Phase, r.Ready, r.Reason = phase.Phase, phase.Phase == PhaseRunning, phase.Reason
		} else {
			s, known := seen[id]
			// A suspect is alive until it had its chance to refute.
			alive := known && (s.Status == p2p.MemberAlive || s.Status == p2p.MemberSuspect)
			r.Path = pathTo(alive, connected[id], reached[id], onMesh(a.opts.Config))
			if r.Path == PathDirect {
				r.Path = mesh.path(r.Address)
			}
			if !alive {
				r.LastSeen, r.Ready, r.Reason = s.Since.UTC(), false, "is not seen"
			}
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(x, y Row) int {
		a, _ := netip.ParseAddr(x.Address)
		b, _ := netip.ParseAddr(y.Address)
		return cmp.Or(a.Compare(b), cmp.Compare(x.ID, y.ID))
	})
	return all
}

// pathTo says how packets reach a node: by the mesh once WireGuard has shaken
// hands with it, else on the LAN where this node's control plane reaches it.
func pathTo(alive, connected, reached, mesh bool) Path {
	switch {
	case !alive:
		return PathNone
	case mesh && reached:
		return PathDirect
	case !mesh && connected:
		return PathLAN
	}
	return PathNone
}

// ledgerRow is an entry as `muster ledger get -o json` shows it.
type ledgerRow struct {
	Key   string `json:"key"`
	Value any    `json:"value"`
	Index uint64 `json:"index"`
}

func ledgerRows(entries []ledger.Entry) []ledgerRow {
	all := make([]ledgerRow, 0, len(entries))
	for _, e := range entries {
		r := ledgerRow{Key: e.Key, Index: e.Index, Value: jsonValue(e)}
		all = append(all, r)
	}
	return all
}
