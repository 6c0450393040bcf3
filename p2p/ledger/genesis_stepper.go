package ledger

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"
)

// FoundingStepper is the founding of a site as one node sees it, without disk, network and clock: what [Founding] drives
// in a node, a simulation drives in virtual time. The caller persists what it is told before it sends what it is told.
// It is not safe for concurrent use.
type FoundingStepper struct{ m *machine }

// FoundingStepperConfig is what a stepper is made of. All fields but Witness are required.
type FoundingStepperConfig struct {
	Self        string // peer ID
	Incarnation string // of the storage, see [Incarnation]
	Witness     bool   // a member of a site: helps others to an outcome, never promises
	Sign        func(context string, msg []byte) ([]byte, error)
	Verify      func(id peer.ID, context string, msg, sig []byte) error
	Timing      FoundingTiming
	// Disk is what was persisted last; nil for a node that starts for the first time.
	Disk []byte
}

// FoundingLetter is one encoded message to another founder.
type FoundingLetter struct {
	To      string
	Message []byte
}

// FoundingOutput is to be carried out in this order: persist Disk if it is not nil, then send.
type FoundingOutput struct {
	Disk []byte
	Send []FoundingLetter
}

// NewFoundingStepper picks up what the disk says. A disk that cannot be read is refused: a promise must not be forgotten.
func NewFoundingStepper(cfg FoundingStepperConfig) (*FoundingStepper, error) {
	ticks, err := cfg.Timing.ticks()
	if err != nil {
		return nil, err
	}
	var state foundingState
	if cfg.Disk != nil {
		if err := json.Unmarshal(cfg.Disk, &state); err != nil {
			return nil, fmt.Errorf("read founding: %w", err)
		}
	}
	return &FoundingStepper{newMachine(machineConfig{
		Self: cfg.Self, Incarnation: cfg.Incarnation, Witness: cfg.Witness, Sign: cfg.Sign, Verify: cfg.Verify, Ticks: ticks,
	}, state)}, nil
}

// Tick passes one [FoundingTiming].Tick with the peers that are seen alive and the record that this node would propose,
// or nil. Site must be set in it; Version and Proposer are filled in.
func (s *FoundingStepper) Tick(alive []string, offer *Genesis) {
	if offer != nil {
		own := *offer
		own.Version, own.Proposer = GenesisVersion, s.m.cfg.Self
		offer = &own
	}
	s.m.Tick(alive, offer)
}

// Step takes an encoded message from an authenticated peer. One that is malformed changes nothing.
func (s *FoundingStepper) Step(from string, message []byte) error {
	msg, err := readGenesisMessage(bytes.NewReader(message))
	if err != nil {
		return err
	}
	s.m.Step(from, msg)
	return nil
}

// Output returns what has come up since the last call.
func (s *FoundingStepper) Output() (FoundingOutput, error) {
	out := s.m.Output()
	if out.Err != nil {
		return FoundingOutput{}, fmt.Errorf("sign: %w", out.Err)
	}
	var encoded FoundingOutput
	var err error
	if out.State != nil {
		if encoded.Disk, err = json.Marshal(out.State); err != nil {
			return FoundingOutput{}, fmt.Errorf("save founding: %w", err)
		}
	}
	for _, l := range out.Send {
		var wire bytes.Buffer
		if err := writeGenesisMessage(&wire, l.Message); err != nil {
			return FoundingOutput{}, err
		}
		encoded.Send = append(encoded.Send, FoundingLetter{To: l.Peer, Message: wire.Bytes()})
	}
	return encoded, nil
}

// Founded returns the outcome once there is a site of which this node is a founder.
func (s *FoundingStepper) Founded() (Certificate, bool) { return s.m.Founded() }

// Promised says whether this node is bound to an attempt that has no outcome yet.
func (s *FoundingStepper) Promised() bool { return s.m.bound() != nil }

// Waiting says in sentences what this node waits for; see [Founding.Waiting].
func (s *FoundingStepper) Waiting() []string { return s.m.Waiting(nil) }
