package k3s

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/muster-edge/muster/p2p"
)

// settingsFile, in RunDir, says with which settings K3s was started. It ends with
// the boot, and so does K3s.
const settingsFile = "k3s.settings"

// userSettings is the hash of what a person can change: everything that K3s is told
// beside the site's own decisions. It is a hash because arguments and environment
// may hold secrets.
func (s Spec) userSettings() (string, error) {
	text, err := json.Marshal(struct {
		Role                                Role
		Args                                []string
		Env                                 map[string]string
		ReplaceArgs, Registry               bool
		TLSSANs                             []string
		Datastore, FlannelInterface, NodeIP string
	}{
		s.Role, s.Args, s.Env, s.ReplaceArgs, s.EmbeddedRegistry,
		s.TLSSANs, s.DatastoreEndpoint, s.FlannelInterface, s.NodeIP.String(),
	})
	if err != nil {
		return "", fmt.Errorf("compare K3s's settings: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// renew ends a K3s that an earlier agent started with other settings, once, before
// this agent starts it for the first time. It returns whether K3s is about to be
// started with wanted, so that this has to be noted.
//
// Later changes wait for the agent's next start: the configuration is read then,
// and a K3s that is restarted because a policy changed would be so on all masters
// at once.
func (d *Driver) renew(ctx context.Context, role Role, wanted string) (starts bool, err error) {
	first := !d.compared
	d.compared = true
	if wanted == d.started {
		return false, nil
	}
	on, err := d.runner.running(ctx, role)
	if err != nil || !on {
		return true, err
	}
	if !first {
		return false, nil
	}
	before, err := os.ReadFile(d.settingsPath())
	switch {
	case err != nil:
		return true, nil // an agent that noted nothing started it: what it runs with counts from now on
	case string(before) == wanted:
		d.started = wanted
		return false, nil
	}
	d.opts.Log.Info("the configuration of K3s has changed, it is restarted", "role", role)
	return true, d.runner.stop(ctx, role)
}

// noteSettings says with which settings K3s was started.
func (d *Driver) noteSettings(settings string) error {
	if err := os.MkdirAll(d.opts.RunDir, 0o755); err != nil {
		return fmt.Errorf("note K3s's settings: %w", err)
	}
	if err := p2p.WriteFile(d.settingsPath(), []byte(settings), 0o600); err != nil {
		return fmt.Errorf("note K3s's settings: %w", err)
	}
	d.started = settings
	return nil
}

func (d *Driver) settingsPath() string { return filepath.Join(d.opts.RunDir, settingsFile) }
