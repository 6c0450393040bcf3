package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p"
	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// Revocation is what `muster node revoke` asks.
type Revocation struct {
	// Node is a peer ID, or the host name that the site knows the node by.
	Node   string `json:"node"`
	Reason string `json:"reason,omitempty"`
	// Yes says that the caller knows what cannot be taken back from a master.
	Yes bool `json:"yes,omitempty"`
}

// Revoked is what it did.
type Revoked struct {
	ID       string `json:"id"`
	Hostname string `json:"hostname"`
	// Token is the site's new one: the node knew the one before.
	Token string `json:"token"`
	// Notes say in sentences what is left to do or cannot be taken back.
	Notes []string `json:"notes"`
}

// rotateToken replaces the site's token and returns the new one.
func (a *Agent) rotateToken(ctx context.Context) (string, error) {
	m, err := a.asMaster("replace the site's token")
	if err != nil {
		return "", err
	}
	view := m.ledger.View()
	txn, token, err := m.rotate(view, ledger.Txn{}, tokenRecipients(view))
	if err != nil {
		return "", err
	}
	if err := m.propose(ctx, txn); err != nil {
		return "", fmt.Errorf("replace the site's token: %w", err)
	}
	return token, nil
}

// siteToken returns the token by which newcomers are let in now.
func (a *Agent) siteToken() (string, error) {
	m, err := a.asMaster("show the site's token")
	if err != nil {
		return "", err
	}
	t, err := m.presentTokens(m.ledger.View())
	return t.Present, err
}

// asMaster returns this node's membership if it may do what only masters may.
func (a *Agent) asMaster(what string) (*member, error) {
	a.mu.Lock()
	m := a.member
	a.mu.Unlock()
	if m == nil || !m.founded() {
		return nil, errNoSite
	}
	_, state, err := m.view()
	if err != nil {
		return nil, err
	}
	if role := state.Roles[m.self()]; !role.IsMaster() {
		return nil, fmt.Errorf("%w: %s: only a master may, this node is a %s; ask one of the masters %s", ErrRefused, what, cmpRole(role), m.masterList(state))
	}
	return m, nil
}

func cmpRole(r roles.Role) string {
	if r == roles.None {
		return "node without a role"
	}
	return string(r)
}

// presentTokens are the site's by its decisions; where none was replaced yet, the
// one that this node was configured with.
func (m *member) presentTokens(view ledger.View) (tokens, error) {
	if t, ok, err := m.siteTokens(view); err != nil || ok {
		return t, err
	}
	if epoch := ledger.EnrolmentEpoch(view); epoch > 0 {
		return tokens{}, fmt.Errorf("the token of enrolment epoch %d has not been sealed to this node yet: try again shortly", epoch)
	}
	t := m.agent.tokens.now()
	t.Epoch = 0 // an override may be of an earlier site of these machines
	return t, nil
}

// rotate adds the next enrolment epoch to a transaction.
func (m *member) rotate(view ledger.View, txn ledger.Txn, to []peer.ID) (ledger.Txn, string, error) {
	old, err := m.presentTokens(view)
	if err != nil {
		return txn, "", err
	}
	record, _, err := ledger.Read[ledger.Enrolment](view, ledger.KeyEnrolment)
	if err != nil {
		return txn, "", err
	}
	old.Epoch = record.Value.Epoch
	next, err := old.next()
	if err != nil {
		return txn, "", err
	}
	secret, err := next.encode()
	if err != nil {
		return txn, "", err
	}
	if txn, err = addSecret(view, txn, ledger.SecretNetworkToken, secret, to); err != nil {
		return txn, "", err
	}
	record.Value.Epoch = next.Epoch
	value, err := record.Encode()
	if err != nil {
		return txn, "", err
	}
	return txn.If(ledger.KeyEnrolment, record.Index).Set(ledger.KeyEnrolment, value), next.Present, nil
}

// addSecret adds to a transaction that a secret is another from now on.
func addSecret(view ledger.View, txn ledger.Txn, name string, text []byte, to []peer.ID) (ledger.Txn, error) {
	secret, err := ledger.ReadSecret(view, name)
	if err != nil {
		return txn, err
	}
	return secret.Replace(txn, text, to)
}

// tokenRecipients are all who belong to the site, founders that were never seen
// since among them, masters first.
func tokenRecipients(view ledger.View) []peer.ID {
	all, members := ledger.Masters(view), membersOf(view)
	slices.Sort(members)
	for _, id := range members {
		if !slices.Contains(all, id) {
			all = append(all, id)
		}
	}
	return all
}

// propose makes an operator's decision.
func (m *member) propose(ctx context.Context, txn ledger.Txn) error {
	_, err := m.ledger.Propose(ctx, txn)
	if errors.Is(err, ledger.ErrConflict) {
		return fmt.Errorf("something else was decided at the same moment, try again: %w", err)
	}
	return err
}

// revoke throws a node out for good: in one decision it is no member any more,
// the token that it knows lets nobody in, and Kubernetes's agent token is
// another.
func (a *Agent) revoke(ctx context.Context, r Revocation) (Revoked, error) {
	m, err := a.asMaster("revoke a node")
	if err != nil {
		return Revoked{}, err
	}
	view, state, err := m.view()
	if err != nil {
		return Revoked{}, err
	}
	id, name, err := m.resolve(view, state, r.Node)
	if err != nil {
		return Revoked{}, err
	}
	out := Revoked{ID: id.String(), Hostname: name, Notes: []string{}}
	if err := m.mayRevoke(view, state, id, name, r.Yes); err != nil {
		return Revoked{}, err
	}
	if wasMaster(view, id) {
		out.Notes = append(out.Notes, keptByMaster(name))
	}
	txn, token, err := m.revocation(view, id, ledger.Revoked{Hostname: name, Reason: r.Reason})
	if err != nil {
		return Revoked{}, err
	}
	if err := m.propose(ctx, txn); err != nil {
		return Revoked{}, fmt.Errorf("revoke %s: %w", name, err)
	}
	a.events.add("revoked", name+" ("+id.String()+")", r.Reason)
	out.Token = token
	if state.Policy.Kubernetes {
		out.Notes = append(out.Notes, "K3s reads its agent token when it starts: the masters restart theirs one after another, each when all others are healthy; `muster why` on a master that still accepts the old one says what it waits for")
	}
	return out, nil
}

// revocation is the one transaction that throws a node out.
func (m *member) revocation(view ledger.View, id peer.ID, record ledger.Revoked) (ledger.Txn, string, error) {
	value, err := ledger.EncodeRecord(record)
	if err != nil {
		return ledger.Txn{}, "", err
	}
	txn := ledger.Txn{}.If(ledger.RevokedKey(id), 0).Set(ledger.RevokedKey(id), value)
	for _, key := range []string{ledger.MemberKey(id), ledger.RoleKey(id), ledger.NameKey(id)} {
		if index := view.IndexOf(key); index > 0 {
			txn = txn.If(key, index).Del(key)
		}
	}
	rest := slices.DeleteFunc(tokenRecipients(view), func(p peer.ID) bool { return p == id })
	txn, token, err := m.rotate(view, txn, rest)
	if err != nil {
		return ledger.Txn{}, "", err
	}
	if view.IndexOf(ledger.SecretKey(ledger.SecretAgentToken)) > 0 {
		if txn, err = addSecret(view, txn, ledger.SecretAgentToken, newSecret(), rest); err != nil {
			return ledger.Txn{}, "", err
		}
	}
	return txn, token, nil
}

// resolve finds the one member that a person means.
func (m *member) resolve(view ledger.View, state roles.State, text string) (peer.ID, string, error) {
	var found []peer.ID
	candidates := append(membersOf(view), ledger.Masters(view)...)
	for _, e := range view.List(ledger.PrefixRemoved) { // they know the token too
		if id, err := ledger.KeyID(e.Key); err == nil && !ledger.IsRevoked(view, id) {
			candidates = append(candidates, id)
		}
	}
	for _, id := range candidates {
		if (id.String() == text || strings.EqualFold(m.siteName(state, id), text)) && !slices.Contains(found, id) {
			found = append(found, id)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], m.siteName(state, found[0]), nil
	case len(found) > 1:
		return "", "", usageError{fmt.Errorf("%q is the name of %d nodes: say the peer ID (`muster nodes -o json`)", text, len(found))}
	}
	if id, err := peer.Decode(text); err == nil && ledger.IsRevoked(view, id) {
		return "", "", usageError{fmt.Errorf("%s was revoked already", text)}
	}
	return "", "", usageError{fmt.Errorf("%q is no node of this site: say a host name or peer ID as `muster nodes` shows them", text)}
}

// siteName is what the site calls a node.
func (m *member) siteName(state roles.State, id peer.ID) string {
	if name := state.Names[nodeID(id)]; name != "" {
		return name
	}
	return m.agent.nameOf(id)
}

// wasMaster tells whether a node is a master, or was removed as one.
func wasMaster(view ledger.View, id peer.ID) bool {
	removed, _, err := ledger.Read[ledger.Removed](view, ledger.RemovedKey(id))
	return slices.Contains(ledger.Masters(view), id) || err == nil && ledger.IsMaster(removed.Value.Role)
}

// mayRevoke refuses to revoke a master when that would leave the site without
// decisions, or when the caller has not said to know what a master keeps.
func (m *member) mayRevoke(view ledger.View, state roles.State, id peer.ID, name string, yes bool) error {
	if slices.Contains(ledger.Masters(view), id) {
		if err := m.mayLoseMaster(state, id, name); err != nil {
			return err
		}
	}
	if wasMaster(view, id) && !yes {
		return fmt.Errorf("%w: %s; say --yes if that is understood", ErrRefused, keptByMaster(name))
	}
	return nil
}

func (m *member) mayLoseMaster(state roles.State, id peer.ID, name string) error {
	if state.Policy.Kubernetes && state.Policy.HA {
		// etcd has to forget its member before another takes the place.
		return fmt.Errorf("%w: %s is a master of the cluster: `muster node remove %s` takes it out of etcd first, then it is revoked; know that %s", ErrRefused, name, name, keptByMaster(name))
	}
	var rest, up []peer.ID
	alive := m.alive()
	for _, voter := range m.ledger.Status().Voters {
		if voter == id {
			continue
		}
		rest = append(rest, voter)
		if voter == m.agent.identity.ID() || slices.Contains(alive, voter) {
			up = append(up, voter)
		}
	}
	switch needed := len(rest)/2 + 1; {
	case id == m.agent.identity.ID():
		return fmt.Errorf("%w: this is %s itself: revoke it from another master", ErrRefused, name)
	case len(rest) == 0:
		return fmt.Errorf("%w: %s is the only master: without it nothing can be decided, and the cluster's data is on its disk", ErrRefused, name)
	case len(up) < needed:
		return fmt.Errorf("%w: without %s %d of %d masters must be up, and %d are: bring the others back first", ErrRefused, name, needed, len(rest), len(up))
	}
	return nil
}

// keptByMaster is what no revocation takes back.
func keptByMaster(name string) string {
	return fmt.Sprintf("%s was a master: whoever holds its disk keeps the cluster's CA keys, etcd's keys, the server token and the admin kubeconfig, and with them reaches the Kubernetes API wherever it can be reached (port 6443); only a new cluster, or K3s's own CA and token rotation, takes those back", name)
}

// outcast is a node that was thrown out.
type outcast struct {
	id     peer.ID
	record ledger.Revoked
}

func outcasts(view ledger.View) []outcast {
	var all []outcast
	for id, r := range ledger.ReadAll[ledger.Revoked](view, ledger.PrefixRevoked) {
		all = append(all, outcast{id, r.Value})
	}
	slices.SortFunc(all, func(a, b outcast) int { return strings.Compare(string(a.id), string(b.id)) })
	return all
}

// expel closes what is open to nodes that were thrown out and forgets what they
// said. Admission and every protocol ask for themselves.
func (m *member) expel(ctx context.Context) ([]string, error) {
	a := m.agent
	var waiting []string
	for _, o := range outcasts(m.ledger.View()) {
		if o.id == a.identity.ID() {
			waiting = append(waiting, selfRevoked(o.record.Reason))
			continue
		}
		a.host.Disconnect(o.id)
		a.facts.Forget(o.id)
	}
	return waiting, nil
}

func selfRevoked(reason string) string {
	why := "this node was revoked"
	if reason != "" {
		why += " (" + reason + ")"
	}
	return why + ": no other node speaks to it any more. To use the machine again, wipe its state directory and give it the site's new token"
}

// refusedBy says what others said when they refused this node.
func (a *Agent) refusedBy() []string {
	var all []string
	for _, r := range a.host.RefusedBy() {
		switch {
		case errors.Is(r.Reason, p2p.ErrRevokedThere):
			all = append(all, fmt.Sprintf("node %s says that this node was revoked: `muster ledger get revoked/` on a master says why; to use the machine again, wipe its state directory and give it the site's new token", r.By))
		case errors.Is(r.Reason, p2p.ErrTokenReplaced):
			all = append(all, fmt.Sprintf("this token was replaced: node %s knows it, and lets nobody in by it any more; put the site's present token into the cloud-config (`muster token show` on a master)", r.By))
		}
		if len(all) == 1 {
			break // they all say the same
		}
	}
	return all
}
