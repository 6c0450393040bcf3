package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/muster-edge/muster/p2p"
)

// Phase is where a node stands on its way from power-on to a working part of a
// site. It is written to disk before it is acted on, so that a node that lost
// power can say where it was.
type Phase string

// The phases, in the order of an undisturbed start.
const (
	// PhaseStarting: identity and configuration are being read.
	PhaseStarting Phase = "starting"
	// PhaseSearching: no site yet, looking for other nodes.
	PhaseSearching Phase = "searching"
	// PhaseFounding: enough nodes are there, they promise each other a site.
	PhaseFounding Phase = "founding"
	// PhaseEnrolling: a site exists and is being asked to let this node in.
	PhaseEnrolling Phase = "enrolling"
	// PhaseJoining: a member that has no role or no address yet.
	PhaseJoining Phase = "joining"
	// PhaseConnecting: role and address are known, the mesh is being brought up.
	PhaseConnecting Phase = "connecting"
	// PhaseInstalling: Kubernetes is being installed or started.
	PhaseInstalling Phase = "installing"
	// PhaseRunning: the node is healthy in its role.
	PhaseRunning Phase = "running"
	// PhaseBlocked: only somebody else can help; the reason says who.
	PhaseBlocked Phase = "blocked"
)

// transitions lists what may follow a phase. Every phase may become starting
// (a restart) and blocked. A newcomer becomes a member through founding or
// enrolling and never turns back; a member moves among its phases as it is
// observed, which may skip one that lasted no time.
var transitions = map[Phase][]Phase{
	PhaseStarting:   {PhaseSearching, PhaseJoining},
	PhaseSearching:  {PhaseFounding, PhaseEnrolling},
	PhaseFounding:   {PhaseSearching, PhaseEnrolling, PhaseJoining},
	PhaseEnrolling:  {PhaseSearching, PhaseFounding, PhaseJoining},
	PhaseJoining:    {PhaseConnecting, PhaseInstalling, PhaseRunning},
	PhaseConnecting: {PhaseJoining, PhaseInstalling, PhaseRunning},
	PhaseInstalling: {PhaseJoining, PhaseConnecting, PhaseRunning},
	PhaseRunning:    {PhaseJoining, PhaseConnecting, PhaseInstalling},
	PhaseBlocked:    {PhaseSearching, PhaseFounding, PhaseEnrolling, PhaseJoining, PhaseConnecting, PhaseInstalling, PhaseRunning},
}

// ErrPhase is returned for a phase that may not follow the present one.
var ErrPhase = errors.New("phase may not follow")

// phaseRecord is the content of phase.json.
type phaseRecord struct {
	Phase  Phase     `json:"phase"`
	Since  time.Time `json:"since"`
	Reason string    `json:"reason,omitempty"`
}

// phases keeps the present phase and its file. It has a lock of its own because
// it waits for the disk.
type phases struct {
	path string
	now  func() time.Time

	mu      sync.Mutex
	current phaseRecord
	problem error // why current is not on disk
}

// phaseChange is what entering a phase changed.
type phaseChange int

const (
	phaseKept    phaseChange = iota // nothing
	phaseRenewed                    // the reason
	phaseEntered                    // the phase
)

// openPhases reads the file of an earlier run; the phase it holds is history
// and the node starts anew. A disk that takes nothing more is an error beside
// phases that are kept in memory: it must not keep a node from coming up.
func openPhases(path string, now func() time.Time) (*phases, Phase, error) {
	p := &phases{path: path, now: now}
	text, err := os.ReadFile(path)
	var last phaseRecord
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, "", fmt.Errorf("read phase: %w", err)
	default:
		// A damaged file costs only the memory of where the node was.
		_ = json.Unmarshal(text, &last)
	}
	return p, last.Phase, p.write(phaseRecord{Phase: PhaseStarting, Since: now()})
}

// enter makes next the present phase, on disk first. Entering the present
// phase again only renews its reason. A disk that takes nothing more costs the
// memory of it, not the phase: the error is returned beside the change.
func (p *phases) enter(next Phase, reason string) (phaseChange, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.current
	if was.Phase == next && was.Reason == reason {
		if p.problem != nil {
			_ = p.write(was) // it was reported, and unwritten says so until it succeeds
		}
		return phaseKept, nil
	}
	if was.Phase == next {
		return phaseRenewed, p.write(phaseRecord{Phase: next, Since: was.Since, Reason: reason})
	}
	if next != PhaseBlocked && next != PhaseStarting && !slices.Contains(transitions[was.Phase], next) {
		return phaseKept, fmt.Errorf("enter phase %s from %s: %w", next, was.Phase, ErrPhase)
	}
	return phaseEntered, p.write(phaseRecord{Phase: next, Since: p.now(), Reason: reason})
}

func (p *phases) present() phaseRecord {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current
}

// unwritten says what keeps the present phase from being on disk, nil if nothing
// does.
func (p *phases) unwritten() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.problem
}

func (p *phases) write(r phaseRecord) error {
	text, err := json.Marshal(r)
	if err == nil {
		err = p2p.WriteFile(p.path, text, 0o600)
		p.current = r
	}
	p.problem = err
	if err != nil {
		return fmt.Errorf("write phase: %w", err)
	}
	return nil
}
