package ledger

import (
	"encoding/json"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
)

// proposer is who may change a kind of record.
type proposer int

const (
	byNobody      proposer = iota // only the founding, or a recovery, writes it
	byCoordinator                 // the planner, where it runs now
	byMaster                      // an operator, through a master
	byOwner                       // the coordinator; the node that the key names, once the record exists
	byKeeper                      // the coordinator or a master: secrets that all masters hold
	byAsker                       // the coordinator, a master, or the node that the key names
	byEpoch                       // the coordinator; the init node for its CA hash (see checkEpoch)
	byVIPHolder                   // the coordinator; the holder, to put it down (see checkVIP)
)

// rule is one line of the table of who may propose what.
type rule struct {
	key    string // exact, or a prefix that ends in a slash
	by     proposer
	delete bool // may be deleted, by the same
	check  func(ruleSet, change) error
}

// change is one record of a proposal.
type change struct {
	author peer.ID
	key    string
	old    Entry // zero when there was none
	value  []byte
	txn    Txn
}

// rules is the table. What is not in it cannot be proposed.
var rules = []rule{
	{key: KeyGenesis, by: byNobody},
	{key: KeyPolicy, by: byMaster, check: ruleSet.checkPolicyRecord},
	{key: KeyEpoch, by: byEpoch, check: ruleSet.checkEpoch},
	{key: KeyCounter, by: byCoordinator, check: ruleSet.checkCounter},
	{key: KeyFeature, by: byCoordinator, check: ruleSet.checkFeature},
	{key: KeyVIP, by: byVIPHolder, check: ruleSet.checkVIP},
	{key: KeyEnrolment, by: byMaster, check: ruleSet.checkEnrolmentEpoch},
	{key: PrefixMember, by: byOwner, delete: true, check: ruleSet.checkMember},
	{key: PrefixRole, by: byCoordinator, delete: true, check: ruleSet.checkRole},
	{key: PrefixAddress, by: byCoordinator, check: ruleSet.checkAddress},
	{key: PrefixName, by: byCoordinator, delete: true, check: ruleSet.checkName},
	{key: PrefixSecret, by: byKeeper, delete: true, check: ruleSet.checkSecret},
	{key: PrefixDNS, by: byMaster, delete: true, check: ruleSet.checkDNS},
	{key: KeyReplacement, by: byCoordinator, delete: true, check: ruleSet.checkReplacement},
	{key: PrefixRemoved, by: byCoordinator, check: ruleSet.checkRemoved},
	{key: PrefixRequest, by: byAsker, delete: true, check: ruleSet.checkRequest},
	{key: PrefixRevoked, by: byMaster, check: ruleSet.checkRevoked},
	{key: PrefixRecovery, by: byNobody},
}

// ruleSet is what a proposal is judged by: the state that it will be applied to.
type ruleSet struct {
	view        View
	coordinator peer.ID
	checkPolicy func(json.RawMessage) error
}

// check returns a *RefusedError when the author may not propose this, or a
// record is not valid.
func (s ruleSet) check(c command) error {
	if !IsMember(s.view, c.author) {
		return refusedf("%s is not a member of the site", c.author)
	}
	for _, op := range c.txn.Ops {
		if err := s.checkOp(c, op); err != nil {
			return err
		}
	}
	return nil
}

func (s ruleSet) checkOp(c command, op Op) error {
	i := slices.IndexFunc(rules, func(r rule) bool {
		if strings.HasSuffix(r.key, "/") {
			return strings.HasPrefix(op.Key, r.key) && len(op.Key) > len(r.key)
		}
		return op.Key == r.key
	})
	if i < 0 {
		return refusedf("%q is not a kind of record that the coordinator knows", op.Key)
	}
	r := rules[i]
	old, _ := s.view.Get(op.Key)
	ch := change{author: c.author, key: op.Key, old: old, value: op.Value, txn: c.txn}
	by := r.by
	if op.Delete && revokes(c.txn, op.Key) {
		by = byMaster // what a node was goes with it
	}
	if err := s.may(by, ch, op.Delete); err != nil {
		return err
	}
	switch {
	case op.Delete && !r.delete:
		return refusedf("%q cannot be deleted", op.Key)
	case op.Delete:
		return nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(op.Value, &fields); err != nil || fields == nil {
		return refusedf("the record %q is not a JSON object", op.Key)
	}
	return r.check(s, ch)
}

func (s ruleSet) may(by proposer, ch change, del bool) error {
	if by != byNobody && by != byMaster && ch.author == s.coordinator {
		return nil
	}
	switch by {
	case byMaster, byKeeper:
		if slices.Contains(Masters(s.view), ch.author) {
			return nil
		}
		return refusedf("%s is not a master, only masters may change %q", ch.author, ch.key)
	case byOwner:
		if ch.old.Index > 0 && !del && strings.HasSuffix(ch.key, "/"+ch.author.String()) {
			return nil
		}
		return refusedf("only the coordinator, or the node itself once it is a member, may change %q", ch.key)
	case byAsker:
		if strings.HasSuffix(ch.key, "/"+ch.author.String()) || slices.Contains(Masters(s.view), ch.author) {
			return nil
		}
		return refusedf("only a master, or the node itself, may change %q", ch.key)
	case byEpoch:
		var e Epoch
		if ch.old.Index > 0 && json.Unmarshal(ch.old.Value, &e) == nil && e.Init == ch.author.String() {
			return nil
		}
		return refusedf("only the coordinator, or the epoch's init node, may change %q", ch.key)
	case byVIPHolder:
		var v VIP
		if ch.old.Index > 0 && json.Unmarshal(ch.old.Value, &v) == nil && v.Holder == ch.author.String() {
			return nil
		}
		return refusedf("only the coordinator, or the virtual address's holder, may change %q", ch.key)
	case byCoordinator:
		return refusedf("only the coordinator may change %q", ch.key)
	}
	return refusedf("%q cannot be proposed", ch.key)
}

// decodeChange reads the new record and the old one, if there is one.
func decodeChange[T any](ch change) (next T, old T, err error) {
	if err := json.Unmarshal(ch.value, &next); err != nil {
		return next, old, refusedf("the record %q: %v", ch.key, err)
	}
	if ch.old.Index > 0 {
		if err := json.Unmarshal(ch.old.Value, &old); err != nil {
			return next, old, refusedf("the present record %q: %v", ch.key, err)
		}
	}
	return next, old, nil
}

func (s ruleSet) checkPolicyRecord(ch change) error {
	if s.checkPolicy == nil {
		return nil
	}
	if err := s.checkPolicy(json.RawMessage(ch.value)); err != nil {
		return refusedf("the policy: %v", err)
	}
	return nil
}

// after returns the view with the transaction's changes, for records that
// depend on others of the same transaction.
func (s ruleSet) after(t Txn) View {
	entries := make(map[string]Entry, len(s.view.entries)+len(t.Ops))
	for k, e := range s.view.entries {
		entries[k] = e
	}
	for _, op := range t.Ops {
		if op.Delete {
			delete(entries, op.Key)
			continue
		}
		entries[op.Key] = Entry{Key: op.Key, Value: op.Value, Index: s.view.index + 1}
	}
	return View{index: s.view.index, entries: entries}
}

func (s ruleSet) checkFeature(ch change) error {
	next, old, err := decodeChange[Feature](ch)
	if err != nil {
		return err
	}
	if next.Level < 1 || next.Level < old.Level {
		return refusedf("feature level %d cannot follow %d: it only grows", next.Level, old.Level)
	}
	return nil
}

func (s ruleSet) checkMember(ch change) error {
	id, err := KeyID(ch.key)
	if err != nil {
		return refusedf("%v", err)
	}
	next, _, err := decodeChange[Member](ch)
	if err != nil {
		return err
	}
	if _, revoked := s.view.Get(RevokedKey(id)); revoked {
		return refusedf("%s was revoked", id)
	}
	if IsRemoved(s.view, id) {
		return refusedf("%s was removed from the site: reset it, and it comes back as a new node", id)
	}
	r, err := openEnrolment(id, next.Request)
	if err != nil {
		return refusedf("the request of member %s: %v", id, err)
	}
	if next.ID != id.String() || next.Hostname != r.Hostname || next.StaticRole != r.StaticRole || next.Hardware != r.Hardware {
		return refusedf("the record of member %s says something else than its own request", id)
	}
	return nil
}

func (s ruleSet) checkRole(ch change) error {
	next, _, err := decodeChange[Role](ch)
	if err != nil {
		return err
	}
	if next.Role != RoleWorker && !IsMaster(next.Role) {
		return refusedf("%q is not a role", next.Role)
	}
	return s.checkAboutMember(ch)
}

func (s ruleSet) checkAboutMember(ch change) error {
	id, err := KeyID(ch.key)
	if err != nil {
		return refusedf("%v", err)
	}
	if !IsMember(s.after(ch.txn), id) {
		return refusedf("%s is not a member of the site", id)
	}
	return nil
}

var dnsLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func (s ruleSet) checkName(ch change) error {
	next, _, err := decodeChange[Name](ch)
	if err != nil {
		return err
	}
	if !dnsLabel.MatchString(next.Name) {
		return refusedf("%q is not a host name: lower-case letters, digits and inner hyphens, 63 at most", next.Name)
	}
	for id, r := range ReadAll[Name](s.after(ch.txn), PrefixName) {
		if NameKey(id) != ch.key && r.Value.Name == next.Name {
			return refusedf("the name %q belongs to %s", next.Name, id)
		}
	}
	return s.checkAboutMember(ch)
}

const maxDNSAnswers = 32

func (s ruleSet) checkDNS(ch change) error {
	next, _, err := decodeChange[DNS](ch)
	if err != nil {
		return err
	}
	name := strings.TrimPrefix(ch.key, PrefixDNS)
	if len(name) > 253 {
		return refusedf("the DNS name has %d characters, more than 253", len(name))
	}
	for i, label := range strings.Split(name, ".") {
		if !dnsLabel.MatchString(label) && !(i == 0 && label == "*" && name != "*") {
			return refusedf("%q is not a DNS name: %q is not a label of lower-case letters, digits and inner hyphens", name, label)
		}
	}
	if n := len(next.A) + len(next.AAAA); n == 0 || n > maxDNSAnswers {
		return refusedf("DNS name %q has %d addresses, want 1 to %d", name, n, maxDNSAnswers)
	}
	for _, a := range next.A {
		if ip, err := netip.ParseAddr(a); err != nil || !ip.Is4() {
			return refusedf("DNS name %q: %q is not an IPv4 address", name, a)
		}
	}
	for _, a := range next.AAAA {
		if ip, err := netip.ParseAddr(a); err != nil || !ip.Is6() || ip.Is4In6() || ip.Zone() != "" {
			return refusedf("DNS name %q: %q is not an IPv6 address", name, a)
		}
	}
	return nil
}

// checkSecret holds that secrets of masters are sealed to masters only (a
// worker cannot make itself one), and all to members only.
func (s ruleSet) checkSecret(ch change) error {
	name, _, _ := strings.Cut(strings.TrimPrefix(ch.key, PrefixSecret), "/") // the rest numbers parts
	mastersOnly := name == SecretServerToken || name == SecretKubeconfig
	if !mastersOnly && name != SecretAgentToken && name != SecretNetworkToken {
		return refusedf("%q is not a secret that the coordinator knows", name)
	}
	sealed, err := ParseSealed(ch.value)
	if err != nil {
		return refusedf("the secret %q: %v", name, err)
	}
	after := s.after(ch.txn)
	masters := Masters(after)
	for _, id := range sealed.Recipients() {
		switch {
		case mastersOnly && !slices.Contains(masters, id):
			return refusedf("the secret %q is for masters, %s is not one", name, id)
		case !IsMember(after, id):
			return refusedf("the secret %q is sealed to %s, who is not a member", name, id)
		}
	}
	return nil
}
