package k3s

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/muster-edge/muster/p2p"
)

// settingsFile, in RunDir, says with what K3s was started. It ends with the boot,
// and so does K3s.
const settingsFile = "k3s.settings"

// startedWith is what K3s reads when it starts and never again: hashes, as all of
// it may hold secrets.
type startedWith struct {
	// settings are what a person can change: everything that K3s is told beside the
	// site's own decisions.
	settings string
	// agentToken is what a server lets agents in by; empty on agents, and where an
	// agent of ours of before noted nothing of it.
	agentToken string
	epoch      uint64 // Spec.TokenEpoch, the last under which it is that token
}

func (s Spec) startsWith() (startedWith, error) {
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
		return startedWith{}, fmt.Errorf("compare K3s's settings: %w", err)
	}
	w := startedWith{settings: hashOf(text)}
	if s.Role == Server {
		w.agentToken, w.epoch = hashOf([]byte(s.AgentToken)), s.TokenEpoch
	}
	return w, nil
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// renew ends a K3s that has to be started anew: once, before this agent starts it
// for the first time, when an earlier agent started it with other settings; and
// when the spec says so because of its agent token. It returns whether K3s is about
// to be started with wanted, so that this has to be noted.
//
// Other settings that change later wait for the agent's next start: the
// configuration is read then, and a K3s that is restarted because a policy changed
// would be so on all masters at once.
func (d *Driver) renew(ctx context.Context, spec Spec, wanted startedWith) (starts bool, err error) {
	if wanted == d.started {
		return false, nil
	}
	on, err := d.runner.running(ctx, spec.Role)
	if err != nil {
		return false, err
	}
	first := !d.compared
	d.compared = true
	if !on {
		return true, nil
	}
	if first {
		if d.started, err = d.noted(); err != nil {
			return true, nil // an agent that noted nothing started it: what it runs with counts from now on
		}
	}
	switch {
	case first && d.started.settings != wanted.settings:
		d.opts.Log.Info("the configuration of K3s has changed, it is restarted", "role", spec.Role)
	case d.formerToken(wanted) && spec.TakeToken:
		d.opts.Log.Info("the agent token was replaced, K3s is restarted", "role", spec.Role)
	case d.formerToken(wanted), d.started.agentToken == wanted.agentToken && d.started.epoch == wanted.epoch:
		return false, nil
	default: // the same token, in the next epoch too
		wanted.settings = d.started.settings
		return false, d.note(wanted)
	}
	return true, d.runner.stop(ctx, spec.Role)
}

// formerToken tells whether K3s lets agents in by another token than it is to.
func (d *Driver) formerToken(wanted startedWith) bool {
	return d.started.agentToken != "" && d.started.agentToken != wanted.agentToken
}

func (d *Driver) noted() (startedWith, error) {
	text, err := os.ReadFile(d.settingsPath())
	if err != nil {
		return startedWith{}, err
	}
	lines := append(strings.Split(string(text), "\n"), "", "")
	epoch, _ := strconv.ParseUint(lines[2], 10, 64) // of before: none
	return startedWith{settings: lines[0], agentToken: lines[1], epoch: epoch}, nil
}

// note says with what K3s was started. It counts even where it cannot be written:
// K3s would else be restarted again and again.
func (d *Driver) note(w startedWith) error {
	d.started = w
	if err := os.MkdirAll(d.opts.RunDir, 0o755); err != nil {
		return fmt.Errorf("note K3s's settings: %w", err)
	}
	text := fmt.Sprintf("%s\n%s\n%d\n", w.settings, w.agentToken, w.epoch)
	if err := p2p.WriteFile(d.settingsPath(), []byte(text), 0o600); err != nil {
		return fmt.Errorf("note K3s's settings: %w", err)
	}
	return nil
}

func (d *Driver) settingsPath() string { return filepath.Join(d.opts.RunDir, settingsFile) }
