package roles

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const (
	// MaxMasters bounds the masters, who are the Raft voters and the etcd members: 5 survive two failures, and every
	// further one slows each write (etcd's and Consul's own advice).
	MaxMasters = 5

	// DefaultMinimumNodes is Kairos's default.
	DefaultMinimumNodes = 2

	// DefaultReplaceAfter outlasts a reboot with a file system check.
	DefaultReplaceAfter = 15 * time.Minute
)

// ErrFixedPolicy is wrapped by the errors of [Policy.CheckChange] about what a running site is built on.
var ErrFixedPolicy = errors.New("cannot change in a running site")

// Policy is what a site is meant to look like. It is a decision: taken from the genesis record and changed on purpose, so
// that it does not flip when the coordinator changes. Policies are compared with [Policy.Drift], not with ==.
type Policy struct {
	// Auto gives roles to nodes that have no static one (p2p.auto.enable).
	Auto bool `json:"auto"`

	// HA lets the cluster have more than one master (p2p.auto.ha.enable).
	HA bool `json:"ha"`

	// AdditionalMasters counts the masters beside the first, as Kairos does (p2p.auto.ha.master_nodes). See Masters.
	AdditionalMasters int `json:"master_nodes"`

	// MinimumNodes is how many nodes found a site at least (p2p.minimum_nodes). It has no effect on a site that exists.
	MinimumNodes int `json:"minimum_nodes"`

	// DynamicRoles is Kairos's p2p.dynamic_roles: lost masters are replaced without being asked. Without it the planner only
	// says what it would do, and an operator asks for it.
	DynamicRoles bool `json:"dynamic_roles"`

	// ReplaceAfter is how long a master of a formed control plane must be dead before it is replaced (p2p.replace_after).
	ReplaceAfter time.Duration `json:"-"`

	// ExternalDB names a datastore that K3s uses in place of etcd (p2p.auto.ha.external_db). A policy is read by every
	// member, so credentials are left out when it is encoded, printed or compared: a master takes them from its own
	// configuration.
	ExternalDB string `json:"external_db,omitempty"`

	// Range is where mesh addresses come from. In a configuration the zero value leaves the choice to genesis; in the
	// policy of a site it is what genesis chose.
	Range netip.Prefix `json:"range,omitzero"`

	// VIP is the address that the masters themselves hold in turn (kubevip.eip with kubevip.enable: false); invalid: none.
	VIP netip.Addr `json:"vip,omitzero"`

	// Kubernetes is whether K3s is wanted (k3s.enabled). Without it, roles and addresses are assigned all the same.
	Kubernetes bool `json:"kubernetes"`
}

// DefaultPolicy returns what a configuration that says nothing means.
func DefaultPolicy() Policy {
	return Policy{Auto: true, DynamicRoles: true, MinimumNodes: DefaultMinimumNodes, ReplaceAfter: DefaultReplaceAfter, Kubernetes: true}
}

// Masters returns how many masters the site has in total.
func (p Policy) Masters() int {
	if !p.HA {
		return 1
	}
	return 1 + p.AdditionalMasters
}

// FoundingSize returns how many nodes must be there to found the site. It is never below the number of masters: a site that
// starts with fewer voters than it is meant to have can lose the only one before it grows (history S3).
func (p Policy) FoundingSize() int { return max(p.MinimumNodes, p.Masters()) }

// Validate returns everything that is impossible about p as one error, a sentence each, or nil.
func (p Policy) Validate() error {
	var problems []error
	refuse := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }

	switch total := 1 + p.AdditionalMasters; {
	case p.AdditionalMasters < 0:
		refuse("ha.master_nodes is %d: it counts the masters beside the first and cannot be negative", p.AdditionalMasters)
	case p.AdditionalMasters > 0 && !p.HA:
		refuse("ha.master_nodes is %d but ha.enable is false: enable it, or remove master_nodes", p.AdditionalMasters)
	case p.AdditionalMasters >= MaxMasters:
		refuse("ha.master_nodes is %d: at most %d, which makes %d masters in total", p.AdditionalMasters, MaxMasters-1, MaxMasters)
	case total%2 == 0:
		refuse("ha.master_nodes is %d: it counts the masters beside the first, so there would be %d, and an even number survives no more failures than %d do; use 0, 2 or 4",
			p.AdditionalMasters, total, total-1)
	}
	switch {
	case p.MinimumNodes < 1:
		refuse("minimum_nodes is %d: at least 1", p.MinimumNodes)
	case p.MinimumNodes > MaxFounders:
		refuse("minimum_nodes is %d: at most %d nodes found a site, the others join it", p.MinimumNodes, MaxFounders)
	}
	if p.ReplaceAfter <= 0 {
		refuse("replace_after is %s: it must be more than zero", p.ReplaceAfter)
	}
	switch v := p.VIP; {
	case !v.IsValid():
	case !v.IsGlobalUnicast() || v.Zone() != "" || v.Is4In6():
		refuse("vip is %s: it must be the address of one machine on the masters' network", v)
	case p.Range.IsValid() && p.Range.Contains(v):
		refuse("vip is %s: it is in the mesh range %s, which numbers the nodes themselves", v, p.Range)
	}
	if p.Range.IsValid() {
		if err := checkRange(p.Range, p.FoundingSize()); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// CheckChange returns why the policy of a running site cannot become next, or nil. What the ledger, the datastore or the
// addresses are built on stays as genesis made it.
func (p Policy) CheckChange(next Policy) error {
	if err := next.Validate(); err != nil {
		return err
	}
	var problems []error
	keep := func(same bool, key, why string) {
		if !same {
			problems = append(problems, fmt.Errorf("%s %w: %s", key, ErrFixedPolicy, why))
		}
	}
	keep(p.HA == next.HA, "ha.enable", "the datastore of one master cannot be joined by others")
	keep(p.Masters() == next.Masters(), "ha.master_nodes", "the masters are the voters of the ledger, chosen at genesis")
	keep(datastoreName(p.ExternalDB) == datastoreName(next.ExternalDB), "ha.external_db", "the cluster's data is where it was initialised")
	keep(p.Range == next.Range, "range", "addresses are given once in the life of a site")
	return errors.Join(problems...)
}

// Drift returns in what p, a node's own configuration, differs from the site's policy, a phrase each. A range that p leaves
// open is no difference.
func (p Policy) Drift(site Policy) []string {
	if !p.Range.IsValid() {
		p.Range = site.Range
	}
	return p.differences(site)
}

func (p Policy) differences(other Policy) []string {
	var phrases []string
	compare := func(key, own, others string) {
		if own != others {
			phrases = append(phrases, fmt.Sprintf("%s is %s instead of %s", key, own, others))
		}
	}
	compare("auto.enable", strconv.FormatBool(p.Auto), strconv.FormatBool(other.Auto))
	compare("ha.enable", strconv.FormatBool(p.HA), strconv.FormatBool(other.HA))
	compare("ha.master_nodes", strconv.Itoa(p.AdditionalMasters), strconv.Itoa(other.AdditionalMasters))
	compare("minimum_nodes", strconv.Itoa(p.MinimumNodes), strconv.Itoa(other.MinimumNodes))
	compare("dynamic_roles", strconv.FormatBool(p.DynamicRoles), strconv.FormatBool(other.DynamicRoles))
	compare("replace_after", p.ReplaceAfter.String(), other.ReplaceAfter.String())
	compare("ha.external_db", orUnset(datastoreName(p.ExternalDB)), orUnset(datastoreName(other.ExternalDB)))
	compare("range", rangeText(p.Range), rangeText(other.Range))
	compare("vip", addrText(p.VIP), addrText(other.VIP))
	compare("k3s.enabled", strconv.FormatBool(p.Kubernetes), strconv.FormatBool(other.Kubernetes))
	return phrases
}

// String returns p in one line, without credentials.
func (p Policy) String() string {
	parts := []string{count(p.Masters(), "master"), fmt.Sprintf("minimum_nodes %d", p.MinimumNodes)}
	add := func(when bool, text string) {
		if when {
			parts = append(parts, text)
		}
	}
	add(p.HA, "ha")
	add(!p.Auto, "static roles only")
	add(!p.DynamicRoles, "lost masters only reported")
	add(p.ExternalDB != "", "external datastore "+datastoreName(p.ExternalDB))
	add(p.Range.IsValid(), "range "+p.Range.String())
	add(p.VIP.IsValid(), "virtual address "+p.VIP.String())
	add(!p.Kubernetes, "no Kubernetes")
	parts = append(parts, "replace_after "+p.ReplaceAfter.String())
	return strings.Join(parts, ", ")
}

// LogValue keeps the credentials of ExternalDB out of structured logs.
func (p Policy) LogValue() slog.Value { return slog.StringValue(p.String()) }

// datastoreName returns a datastore endpoint without what may hold a secret: user, password and query. K3s endpoints are
// not all URLs ("mysql://user:pass@tcp(host:3306)/db"), hence no url.Parse.
func datastoreName(endpoint string) string {
	scheme, rest, found := strings.Cut(endpoint, "://")
	if !found {
		scheme, rest = "", endpoint
	}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		rest = rest[at+1:]
	}
	rest, _, _ = strings.Cut(rest, "?")
	if found {
		return scheme + "://" + rest
	}
	return rest
}

func orUnset(s string) string {
	if s == "" {
		return "unset"
	}
	return s
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return "unset"
	}
	return a.String()
}

func rangeText(r netip.Prefix) string {
	if !r.IsValid() {
		return "unset"
	}
	return r.String()
}
