package roles

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// MaxFounders bounds the nodes that found a site: every one promises, and every promise travels in the record that all of
// them keep. Whoever is beyond it joins a moment later.
const MaxFounders = 64

// Candidate is a node without a site, as its facts describe it. The node that plans is one too.
type Candidate struct {
	ID       NodeID
	Hostname string
	// StaticRole is None, Master or Worker.
	StaticRole Role
	// JoinOnly nodes never found a site and do not count.
	JoinOnly bool
	// LANs are the networks of the node's own interfaces.
	LANs   []netip.Prefix
	Policy Policy
	// Conflict says that two live machines hold the node's key. It does not count either.
	Conflict bool
}

// Founding is what all founders promise.
type Founding struct {
	Founders, Masters []NodeID // sorted by ID
	// Policy is the one that all founders carry, with its Range set to the chosen one.
	Policy Policy
	Range  netip.Prefix
}

// PlanFounding returns what the candidates would found together, or else sentences that say what is missing. It depends on
// the candidates alone: nodes that see each other propose the same, whoever proposes and in whatever order they were seen.
//
// All that are here found, not just as many as must be: who is there at the beginning need not join. Masters are nodes with
// that static role first, never static workers, and otherwise the lowest IDs, which are random. Nobody founds while the
// policies of the candidates differ: to go on with those that agree would make two sites of one.
func PlanFounding(self NodeID, candidates []Candidate) (Founding, []string) {
	eligible, why := eligibleCandidates(candidates)
	own := slices.IndexFunc(eligible, func(c Candidate) bool { return c.ID == self })
	if own < 0 {
		return Founding{}, []string{whyNoFounder(self, candidates)}
	}
	policy := eligible[own].Policy
	if err := policy.Validate(); err != nil {
		return Founding{}, []string{fmt.Sprintf("this node's policy is impossible: %s", strings.ReplaceAll(err.Error(), "\n", "; "))}
	}
	if quarrel := disagreements(eligible[own], eligible); len(quarrel) > 0 {
		return Founding{}, quarrel
	}
	if missing := policy.FoundingSize() - len(eligible); missing > 0 {
		return Founding{}, append([]string{tooFew(policy, eligible, missing)}, why...)
	}

	masters, reason := chooseMasters(policy, eligible)
	if reason != "" {
		return Founding{}, append([]string{reason}, why...)
	}
	founders := chooseFounders(masters, eligible)
	if !slices.ContainsFunc(founders, func(c Candidate) bool { return c.ID == self }) {
		return Founding{}, []string{fmt.Sprintf("%d other nodes found the site, the most that can: this node joins it then", MaxFounders)}
	}
	chosen, reason := chooseRange(policy, founders)
	if reason != "" {
		return Founding{}, []string{reason}
	}
	policy.Range = chosen
	policy.ExternalDB = datastoreName(policy.ExternalDB)
	return Founding{Founders: sortedIDs(founders), Masters: sortedIDs(masters), Policy: policy, Range: chosen}, nil
}

// eligibleCandidates returns those that may found, sorted by ID, and a sentence for each that may not. An ID listed twice
// is a key with two holders.
func eligibleCandidates(candidates []Candidate) (eligible []Candidate, why []string) {
	sorted := slices.SortedFunc(slices.Values(candidates), func(a, b Candidate) int { return cmp.Compare(a.ID, b.ID) })
	for i, c := range sorted {
		twice := i > 0 && sorted[i-1].ID == c.ID || i+1 < len(sorted) && sorted[i+1].ID == c.ID
		switch {
		case c.Conflict || twice:
			why = append(why, fmt.Sprintf("%s does not count: two live machines hold its key", shown(c.Hostname, c.ID)))
		case c.JoinOnly:
			why = append(why, fmt.Sprintf("%s does not count: it is join_only", shown(c.Hostname, c.ID)))
		default:
			eligible = append(eligible, c)
		}
	}
	return eligible, slices.Compact(why)
}

func whyNoFounder(self NodeID, candidates []Candidate) string {
	for _, c := range candidates {
		switch {
		case c.ID != self:
		case c.JoinOnly && !c.Conflict:
			return "this node is join_only: it waits for a site that others found"
		default:
			return "another live machine holds this node's key: end one of them, or give one a new identity"
		}
	}
	return "this node's own facts are not published yet"
}

// disagreements compares all policies with the planning node's own.
func disagreements(own Candidate, eligible []Candidate) []string {
	var sentences []string
	for _, c := range eligible {
		if phrases := c.Policy.differences(own.Policy); len(phrases) > 0 {
			sentences = append(sentences, fmt.Sprintf("%s wants another site than this node: %s", shown(c.Hostname, c.ID), strings.Join(phrases, ", ")))
		}
	}
	return sentences
}

func tooFew(policy Policy, eligible []Candidate, missing int) string {
	reason := fmt.Sprintf("minimum_nodes is %d", policy.MinimumNodes)
	if policy.Masters() > policy.MinimumNodes {
		reason = fmt.Sprintf("%s are wanted", count(policy.Masters(), "master"))
	}
	return fmt.Sprintf("%s must come to found the site: %d of %d here, %s (%s)",
		count(missing, "more node"), len(eligible), policy.FoundingSize(), list(hostnames(eligible)), reason)
}

// chooseMasters returns exactly policy.Masters() of the eligible, or why not.
func chooseMasters(policy Policy, eligible []Candidate) ([]Candidate, string) {
	var masters, others []Candidate
	for _, c := range eligible {
		switch {
		case c.StaticRole == Master:
			masters = append(masters, c)
		case c.StaticRole == None && policy.Auto:
			others = append(others, c)
		}
	}
	if masters = append(masters, others...); len(masters) >= policy.Masters() {
		return masters[:policy.Masters()], ""
	}
	cause := "the others are static workers"
	if !policy.Auto {
		cause = "the others have no static role master, and automatic roles are off"
	}
	return nil, fmt.Sprintf("%s wanted, but of the %s here %d can be one (%s): %s",
		count(policy.Masters(), "master"), count(len(eligible), "node"), len(masters), list(hostnames(masters)), cause)
}

// chooseFounders returns the masters and as many others as there is room for.
func chooseFounders(masters, eligible []Candidate) []Candidate {
	founders := slices.Clone(masters)
	for _, c := range eligible {
		master := slices.ContainsFunc(masters, func(m Candidate) bool { return m.ID == c.ID })
		if !master && len(founders) < MaxFounders {
			founders = append(founders, c)
		}
	}
	return founders
}

// chooseRange returns the policy's range, or the first of meshRanges that is clear of every founder's networks and holds
// them all.
func chooseRange(policy Policy, founders []Candidate) (netip.Prefix, string) {
	clash := func(r netip.Prefix) string {
		for _, c := range founders {
			if lan, found := overlap(r, c.LANs); found {
				return fmt.Sprintf("range %s overlaps %s, a network of %s", r, lan, shown(c.Hostname, c.ID))
			}
		}
		return ""
	}
	if policy.Range.IsValid() {
		if reason := clash(policy.Range); reason != "" {
			return netip.Prefix{}, reason + ": choose another range, or leave it out"
		}
		return policy.Range, ""
	}
	var reason string
	for _, r := range meshRanges {
		if reason = clash(r); reason == "" {
			return r, ""
		}
	}
	return netip.Prefix{}, fmt.Sprintf("no mesh range is clear of the founders' networks (the last tried: %s): set one", reason)
}

func sortedIDs(candidates []Candidate) []NodeID {
	ids := make([]NodeID, len(candidates))
	for i, c := range candidates {
		ids[i] = c.ID
	}
	slices.Sort(ids)
	return ids
}

func hostnames(candidates []Candidate) []string {
	names := make([]string, len(candidates))
	for i, c := range candidates {
		names[i] = shown(c.Hostname, c.ID)
	}
	return names
}
