package ledger

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxRevokedText bounds what is said of a revoked node, in bytes.
const maxRevokedText = 256

// checkEnrolmentEpoch holds that an epoch follows the one before, and that no
// epoch begins without its token.
func (s ruleSet) checkEnrolmentEpoch(ch change) error {
	next, old, err := decodeChange[Enrolment](ch)
	switch {
	case err != nil:
		return err
	case next.Epoch != old.Epoch+1:
		return refusedf("enrolment epoch %d does not follow %d", next.Epoch, old.Epoch)
	case !sets(ch.txn, SecretKey(SecretNetworkToken)):
		return refusedf("enrolment epoch %d begins without its token", next.Epoch)
	}
	return nil
}

// checkRevoked holds that a node is thrown out once and for good, together with
// the token that it knows: it could else come back under another key (history
// S20). Nobody revokes the last master, nor itself. Afterwards the coordinator may
// say that the cluster has forgotten it, and nothing else.
func (s ruleSet) checkRevoked(ch change) error {
	id, err := KeyID(ch.key)
	if err != nil {
		return refusedf("%v", err)
	}
	next, old, err := decodeChange[Revoked](ch)
	if err != nil {
		return err
	}
	printable := func(text string) bool {
		return len(text) <= maxRevokedText && utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
	}
	switch {
	case ch.old.Index > 0:
		old.Cleared = true
		if ch.author == s.coordinator && next == old {
			return nil
		}
		return refusedf("%s was revoked already", id)
	case ch.author == id:
		return refusedf("a node does not revoke itself: `muster node leave` is for that")
	case !IsMember(s.view, id) && !IsRemoved(s.view, id):
		return refusedf("%s is not a member of the site", id)
	case !printable(next.Hostname) || !printable(next.Reason):
		return refusedf("what is said of a revoked node is one line of at most %d bytes", maxRevokedText)
	case !sets(ch.txn, KeyEnrolment):
		return refusedf("%s is revoked together with the token that it knows: the transaction sets no new one", id)
	case len(Masters(s.after(ch.txn))) == 0:
		return refusedf("%s is the last master: without it nothing can be decided", id)
	}
	return nil
}

// revokes says whether a transaction throws out the node that key is about.
func revokes(t Txn, key string) bool {
	for _, prefix := range []string{PrefixMember, PrefixRole, PrefixName} {
		if name, ok := strings.CutPrefix(key, prefix); ok {
			return sets(t, PrefixRevoked+name)
		}
	}
	return false
}

func sets(t Txn, key string) bool {
	return slices.ContainsFunc(t.Ops, func(op Op) bool { return op.Key == key && !op.Delete })
}
