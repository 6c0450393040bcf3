package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/muster-edge/muster/node/k3s"
	"github.com/muster-edge/muster/p2p"
	"github.com/muster-edge/muster/p2p/ledger"
	"github.com/muster-edge/muster/roles"
)

// epochFile, in the state directory, says which cluster epoch the Kubernetes
// data on this disk is of. It is written before K3s is first started in an
// epoch, and outlives the data.
const epochFile = "cluster.json"

type epochNote struct {
	Epoch int `json:"epoch"`
	// Tenure is what the node was then (roles.Tenure).
	Tenure int `json:"tenure,omitempty"`
	// Generation of the ledger in which K3s was last started.
	Generation uint64 `json:"generation,omitempty"`
	// Server says whether the data is a server's; older versions did not.
	Server *bool `json:"server,omitempty"`
}

// server takes data of which nobody noted whose it is for a server's: to wipe an
// agent's costs nothing but time.
func (n epochNote) server() bool { return n.Server == nil || *n.Server }

func (n epochNote) data() roles.Data { return roles.Data{Epoch: n.Epoch, Tenure: n.Tenure} }

func (n epochNote) same(o epochNote) bool {
	return n.data() == o.data() && n.Generation == o.Generation && n.Server != nil && o.Server != nil && *n.Server == *o.Server
}

// dataOf is what the Kubernetes data on this disk is of.
func dataOf(path string) (roles.Data, error) {
	note, err := readNote(path)
	return note.data(), err
}

// readNote returns what the Kubernetes data on this disk is of: epoch 0 when K3s
// was never started here. A note that cannot be read is an error: to take it for
// none would start K3s on another cluster's data.
func readNote(path string) (epochNote, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return epochNote{}, nil
	}
	var note epochNote
	if err == nil {
		err = json.Unmarshal(text, &note)
	}
	if err != nil {
		return epochNote{}, fmt.Errorf("read which cluster epoch this node's data is of: %w", err)
	}
	return note, nil
}

// keepNote says that whatever Kubernetes writes from now on is of that.
func keepNote(path string, note epochNote) error {
	if noted, err := readNote(path); err != nil || noted.same(note) {
		return err
	}
	text, err := json.Marshal(note)
	if err == nil {
		err = p2p.WriteFile(path, text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("note cluster epoch %d: %w", note.Epoch, err)
	}
	return nil
}

// leaveSuperseded wipes Kubernetes data that the site has gone on without:
// of an epoch that it has given up (history S4: an init master that was away for
// too long comes back with a cluster of its own, which nobody may ever join), or
// of a generation in which this node was a server and was given up (S7), or of
// what this node was before it was replaced or promoted (S12). The note is renewed
// afterwards, so a wipe that a power cut interrupts begins again.
func leaveSuperseded(ctx context.Context, path string, state roles.State, generation uint64, recoveries []ledger.Recovery, self roles.NodeID, distro k3s.Distro) (why, kept string, err error) {
	noted, err := readNote(path)
	if err != nil {
		return "", "", err
	}
	must, why := roles.MustWipe(state, self, noted.data())
	if judged, sentence := fateOf(noted, recoveries, string(self)); !must && judged == fateWipe {
		must, why = true, sentence
	}
	if !must {
		return "", "", nil
	}
	if kept, err = distro.Wipe(ctx); err != nil {
		return "", "", fmt.Errorf("leave cluster epoch %d: %w", noted.Epoch, err)
	}
	agent := false
	after := epochNote{Generation: generation, Tenure: state.Tenures[self].N, Server: &agent} // nothing is left that anybody started
	if state.Epoch != nil && state.Roles[self] != roles.None {
		after.Epoch = state.Epoch.N
	}
	return why, kept, keepNote(path, after)
}
