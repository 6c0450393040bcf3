package ledger

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p"
)

const (
	enrolContext = "muster enrol 1"

	// enrolTimeout bounds one enrolment: a proposal that waits for an election
	// included.
	enrolTimeout = 20 * time.Second

	// maxEnrolSize bounds a newcomer's message; it is not a member yet.
	maxEnrolSize = 8 << 10

	maxEnrolsInHand = 16
	maxEnrolsOfPeer = maxEnrolsInHand / 2
	// enrolPause is the least time between two enrolments of one newcomer.
	enrolPause = time.Second
	// enrolRemembered bounds the memory of who asked when.
	enrolRemembered = 1024
)

// EnrolmentRequest is what a newcomer says of itself when it asks to be let in.
type EnrolmentRequest struct {
	Version    int    `json:"version"`
	ID         string `json:"id"`
	Hostname   string `json:"hostname"`
	StaticRole string `json:"static_role,omitempty"`
	Hardware   string `json:"hardware"`           // hash of the hardware identity
	Muster     string `json:"muster,omitempty"`   // version of this program
	Features   int    `json:"features,omitempty"` // highest feature level that it knows
}

// signedRequest is the form that is stored in a Member record.
type signedRequest struct {
	Request   json.RawMessage `json:"request"`
	Signature []byte          `json:"signature"`
}

type enrolMessage struct {
	Version int           `json:"version"`
	Signed  signedRequest `json:"signed"`
	// Epoch is by which of the site's tokens the newcomer was let in where it
	// first asked. A member says it when it passes the request on; what a newcomer
	// says of itself does not count.
	Epoch uint64 `json:"epoch,omitempty"`
}

type enrolAnswer struct {
	Version int    `json:"version"`
	Site    Site   `json:"site"`
	Index   uint64 `json:"index,omitempty"`
	Refused string `json:"refused,omitempty"`
	Later   string `json:"later,omitempty"`
}

// Enrol asks a member of a site to let this node in. Once it returns the node is
// a member, and Join starts its ledger. Errors: ErrRefused with the reason;
// ErrNoQuorum, try again later; anything else is a failure on the way to via.
//
// A member may call it again after its hostname or static role changed.
func Enrol(ctx context.Context, host Host, via peer.ID, identity *p2p.Identity, r EnrolmentRequest) (Site, error) {
	signed, err := signEnrolment(identity, r)
	if err != nil {
		return Site{}, fmt.Errorf("enrol: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout+5*time.Second)
	defer cancel()
	var a enrolAnswer
	if err := call(ctx, host, via, ProtocolEnrol, enrolMessage{Version: 1, Signed: signed}, &a); err != nil {
		return Site{}, fmt.Errorf("enrol through %s: %w", short(via), err)
	}
	return a.result(via)
}

func (a enrolAnswer) result(via peer.ID) (Site, error) {
	switch {
	case a.Refused != "":
		return Site{}, fmt.Errorf("enrol: %w", &RefusedError{Reason: a.Refused})
	case a.Later != "":
		return Site{}, fmt.Errorf("enrol through %s: %w (%s)", short(via), ErrNoQuorum, a.Later)
	case a.Site.ID == "" || len(a.Site.ID) > maxSiteSize:
		return Site{}, fmt.Errorf("enrol through %s: it answered without a site", short(via))
	}
	return a.Site, nil
}

// Enrol writes this node's own Member record, for founders, who are members
// before they have one, and after a change of hostname or static role.
func (l *Ledger) Enrol(ctx context.Context, r EnrolmentRequest) error {
	signed, err := signEnrolment(l.cfg.Identity, r)
	if err != nil {
		return fmt.Errorf("enrol: %w", err)
	}
	_, err = l.enrol(ctx, signed, enrolMessage{Version: 1, Signed: signed}).result(l.cfg.Identity.ID())
	return err
}

func signEnrolment(identity *p2p.Identity, r EnrolmentRequest) (signedRequest, error) {
	r.Version, r.ID = 1, identity.ID().String()
	if err := r.check(); err != nil {
		return signedRequest{}, &RefusedError{Reason: err.Error()}
	}
	b, err := json.Marshal(r)
	if err != nil {
		return signedRequest{}, err
	}
	sig, err := identity.Sign(enrolContext, b)
	return signedRequest{Request: b, Signature: sig}, err
}

// openEnrolment reads a signed request of that node.
func openEnrolment(id peer.ID, b []byte) (EnrolmentRequest, error) {
	var s signedRequest
	if len(b) > maxEnrolSize {
		return EnrolmentRequest{}, fmt.Errorf("%d bytes, more than %d", len(b), maxEnrolSize)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return EnrolmentRequest{}, err
	}
	return s.open(id)
}

func (s signedRequest) open(id peer.ID) (EnrolmentRequest, error) {
	if err := p2p.Verify(id, enrolContext, s.Request, s.Signature); err != nil {
		return EnrolmentRequest{}, err
	}
	var r EnrolmentRequest
	if err := json.Unmarshal(s.Request, &r); err != nil {
		return EnrolmentRequest{}, err
	}
	if r.ID != id.String() {
		return EnrolmentRequest{}, fmt.Errorf("it is of %q", r.ID)
	}
	return r, r.check()
}

func (r EnrolmentRequest) check() error {
	switch {
	case r.Version < 1:
		return errors.New("the request has no version")
	case !dnsLabel.MatchString(r.Hostname):
		return fmt.Errorf("%q is not a host name: lower-case letters, digits and inner hyphens, 63 at most", r.Hostname)
	case r.StaticRole != "" && r.StaticRole != RoleWorker && !IsMaster(r.StaticRole):
		return fmt.Errorf("%q is not a role", r.StaticRole)
	case len(r.Hardware) > 128 || len(r.Muster) > 128:
		return errors.New("a field of the request is longer than 128 bytes")
	}
	return nil
}

// serveEnrol answers a newcomer, or a member.
func (l *Ledger) serveEnrol(ctx context.Context, s network.Stream) error {
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	if err := s.SetDeadline(deadline.Add(time.Second)); err != nil {
		return err
	}
	b, err := readBlock(bufio.NewReader(s), maxEnrolSize)
	if err != nil {
		return err
	}
	from := s.Conn().RemotePeer()
	leave, err := l.enrols.enter(from, IsMember(l.View(), from), time.Now())
	if err != nil {
		return writeMessage(s, enrolAnswer{Version: 1, Later: err.Error()})
	}
	defer leave()
	return writeMessage(s, l.answerEnrol(ctx, from, b))
}

// answerEnrol handles the message of a newcomer, or one that a member passed on.
func (l *Ledger) answerEnrol(ctx context.Context, from peer.ID, b []byte) enrolAnswer {
	var m enrolMessage
	if err := json.Unmarshal(b, &m); err != nil {
		return enrolAnswer{Version: 1, Refused: fmt.Sprintf("the message: %v", err)}
	}
	var who struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(m.Signed.Request, &who); err != nil {
		return enrolAnswer{Version: 1, Refused: fmt.Sprintf("the request: %v", err)}
	}
	if !IsMember(l.View(), from) {
		if who.ID != from.String() {
			return enrolAnswer{Version: 1, Refused: "a newcomer asks for itself only"}
		}
		m.Epoch = l.admittedBy(from)
	}
	return l.enrol(ctx, m.Signed, m)
}

// admittedBy returns by which of the site's tokens a newcomer is connected.
func (l *Ledger) admittedBy(id peer.ID) uint64 {
	for _, p := range l.cfg.Host.Peers() {
		if p.ID == id {
			return p.Epoch
		}
	}
	return 0 // it left; the answer will not reach it
}

func (l *Ledger) enrol(ctx context.Context, signed signedRequest, m enrolMessage) enrolAnswer {
	var who struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(signed.Request, &who); err != nil {
		return enrolAnswer{Version: 1, Refused: fmt.Sprintf("the request: %v", err)}
	}
	id, err := peer.Decode(who.ID)
	if err != nil {
		return enrolAnswer{Version: 1, Refused: fmt.Sprintf("the request: %q is not a peer ID", who.ID)}
	}
	r, err := signed.open(id)
	if err != nil {
		return enrolAnswer{Version: 1, Refused: fmt.Sprintf("the request: %v", err)}
	}
	if l.cfg.Admit != nil && !IsMember(l.View(), id) {
		if err := l.cfg.Admit(id, r); err != nil {
			return enrolAnswer{Version: 1, Refused: err.Error()}
		}
	}
	last := enrolAnswer{Version: 1, Later: "no coordinator: too few masters are reachable"}
	for {
		changed := l.Changed()
		if l.IsCoordinator() {
			return l.admit(ctx, id, r, signed, m.Epoch)
		}
		if c, ok := l.Coordinator(); ok && c != l.cfg.Identity.ID() {
			if last = l.passOn(ctx, c, m); last.Later == "" {
				return last
			}
		}
		retry := time.NewTimer(l.cfg.Timing.FollowRetry)
		select {
		case <-ctx.Done():
			retry.Stop()
			return last
		case <-changed:
		case <-retry.C:
		}
		retry.Stop()
		if !pause(ctx, 50*time.Millisecond) {
			return last
		}
	}
}

// passOn hands an enrolment to the coordinator. It gives up on one that was lost
// in the middle, long before its connection does: by then there is another.
func (l *Ledger) passOn(ctx context.Context, coordinator peer.ID, m enrolMessage) enrolAnswer {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timing.ProposeAttempt)
	defer cancel()
	var a enrolAnswer
	if err := call(ctx, l.cfg.Host, coordinator, ProtocolEnrol, m, &a); err != nil {
		return enrolAnswer{Version: 1, Later: err.Error()}
	}
	return a
}

// admit writes the Member record, on the coordinator.
func (l *Ledger) admit(ctx context.Context, id peer.ID, r EnrolmentRequest, signed signedRequest, epoch uint64) enrolAnswer {
	for {
		v := l.View()
		if IsRevoked(v, id) {
			return enrolAnswer{Version: 1, Refused: "this identity was revoked"}
		}
		// Whom it asked may not have heard of the rotation yet.
		if now := EnrolmentEpoch(v); epoch < now && !IsMember(v, id) {
			return enrolAnswer{Version: 1, Refused: fmt.Sprintf("this token was replaced: newcomers need that of enrolment epoch %d", now)}
		}
		old, _, err := Read[Member](v, MemberKey(id))
		if err != nil {
			return enrolAnswer{Version: 1, Refused: err.Error()}
		}
		request, err := json.Marshal(signed)
		if err != nil {
			return enrolAnswer{Version: 1, Refused: err.Error()}
		}
		if IsMember(v, id) {
			epoch = old.Value.EnrolmentEpoch
		}
		next := old
		next.Value = Member{
			ID:             id.String(),
			Hostname:       r.Hostname,
			StaticRole:     r.StaticRole,
			Hardware:       r.Hardware,
			EnrolmentEpoch: epoch,
			Version:        recordVersion,
			Request:        request,
		}
		if old.Index > 0 && sameMember(old.Value, next.Value) {
			return enrolAnswer{Version: 1, Site: l.site, Index: old.Index}
		}
		value, err := next.Encode()
		if err != nil {
			return enrolAnswer{Version: 1, Refused: err.Error()}
		}
		index, err := l.Propose(ctx, Txn{}.If(MemberKey(id), old.Index).Set(MemberKey(id), value))
		var refused *RefusedError
		switch {
		case err == nil:
			return enrolAnswer{Version: 1, Site: l.site, Index: index}
		case errors.As(err, &refused):
			if !l.IsCoordinator() {
				return enrolAnswer{Version: 1, Later: "the coordinator has just changed"}
			}
			return enrolAnswer{Version: 1, Refused: refused.Reason}
		case !errors.Is(err, ErrConflict):
			return enrolAnswer{Version: 1, Later: err.Error()}
		}
	}
}

// sameMember says whether a request changes nothing: a newcomer that did not
// hear the answer asks again.
func sameMember(a, b Member) bool {
	return a.Hostname == b.Hostname && a.StaticRole == b.StaticRole && a.Hardware == b.Hardware &&
		a.EnrolmentEpoch == b.EnrolmentEpoch
}

// enrolLimit keeps newcomers, of whom there may be any number, from filling the
// coordinator's hands.
type enrolLimit struct {
	hands *hands

	mu   sync.Mutex
	last map[peer.ID]time.Time
}

func newEnrolLimit() *enrolLimit {
	return &enrolLimit{hands: newHands(maxEnrolsInHand, maxEnrolsOfPeer), last: map[peer.ID]time.Time{}}
}

func (e *enrolLimit) enter(id peer.ID, member bool, now time.Time) (leave func(), err error) {
	release, ok := e.hands.take(id)
	if !ok {
		return nil, errors.New("too many nodes enrol at once")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !member { // a member also passes on what others ask
		if last, ok := e.last[id]; ok && now.Sub(last) < enrolPause {
			release()
			return nil, fmt.Errorf("asked again within %v", enrolPause)
		}
		if len(e.last) >= enrolRemembered {
			clear(e.last) // forgetting costs no more than an early answer
		}
		e.last[id] = now
	}
	return release, nil
}
