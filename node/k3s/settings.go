package k3s

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/muster-edge/muster/p2p"
)

// settingsFile, in RunDir, says with what K3s was started. It ends with the boot,
// and so does K3s.
const settingsFile = "k3s.settings"

// startedWith is what K3s reads when it starts and never again, as hashes: all of
// it may hold secrets.
type startedWith struct {
	// settings are what a person can change: everything that K3s is told beside the
	// site's own decisions.
	settings string
	// agentToken is what a server lets agents in by; empty on agents, and where an
	// agent of ours of before noted nothing of it.
	agentToken string
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
		w.agentToken = hashOf([]byte(s.AgentToken))
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
	first := !d.compared
	d.compared = true
	if wanted == d.started {
		return false, nil
	}
	on, err := d.runner.running(ctx, spec.Role)
	if err != nil || !on {
		return true, err
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
	default:
		return first && d.started.agentToken == "" && wanted.agentToken != "", nil
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
	settings, token, _ := strings.Cut(string(text), "\n")
	return startedWith{settings: settings, agentToken: strings.TrimSpace(token)}, nil
}

// note says with what K3s was started.
func (d *Driver) note(w startedWith) error {
	if err := os.MkdirAll(d.opts.RunDir, 0o755); err != nil {
		return fmt.Errorf("note K3s's settings: %w", err)
	}
	if err := p2p.WriteFile(d.settingsPath(), []byte(w.settings+"\n"+w.agentToken+"\n"), 0o600); err != nil {
		return fmt.Errorf("note K3s's settings: %w", err)
	}
	d.started = w
	return nil
}

func (d *Driver) settingsPath() string { return filepath.Join(d.opts.RunDir, settingsFile) }
