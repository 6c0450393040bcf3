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
	"github.com/muster-edge/muster/roles"
)

// epochFile, in the state directory, says which cluster epoch the Kubernetes
// data on this disk is of. It is written before K3s is first started in an
// epoch, and outlives the data.
const epochFile = "cluster.json"

type epochNote struct {
	Epoch int `json:"epoch"`
}

// dataEpoch is the cluster epoch of the Kubernetes data on this disk, 0 when K3s
// was never started here. A note that cannot be read is an error: to take it for
// none would start K3s on another cluster's data.
func dataEpoch(path string) (int, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	var note epochNote
	if err == nil {
		err = json.Unmarshal(text, &note)
	}
	if err != nil {
		return 0, fmt.Errorf("read which cluster epoch this node's data is of: %w", err)
	}
	return note.Epoch, nil
}

// noteEpoch says that whatever Kubernetes writes from now on is of that epoch.
func noteEpoch(path string, epoch int) error {
	if noted, err := dataEpoch(path); err != nil || noted == epoch {
		return err
	}
	text, err := json.Marshal(epochNote{Epoch: epoch})
	if err == nil {
		err = p2p.WriteFile(path, text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("note cluster epoch %d: %w", epoch, err)
	}
	return nil
}

// leaveSuperseded wipes Kubernetes data of an epoch that the site has given up
// (history S4): an init master that was away for too long comes back with a
// cluster of its own, which nobody may ever join. The note is renewed by whoever
// starts K3s next, so a wipe that a power cut interrupts begins again.
func leaveSuperseded(ctx context.Context, path string, state roles.State, distro k3s.Distro) (why, kept string, err error) {
	noted, err := dataEpoch(path)
	if err != nil {
		return "", "", err
	}
	must, why := roles.MustWipe(state, noted)
	if !must {
		return "", "", nil
	}
	if kept, err = distro.Wipe(ctx); err != nil {
		return "", "", fmt.Errorf("leave cluster epoch %d: %w", noted, err)
	}
	return why, kept, noteEpoch(path, state.Epoch.N)
}
