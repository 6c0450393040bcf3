package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/muster-edge/muster/node/config"
	"github.com/muster-edge/muster/p2p"
	"github.com/muster-edge/muster/roles"
)

// Stages of the cloud-config that the agent runs, by Kairos's names.
const (
	// stageBootstrap runs before this node looks for its site.
	stageBootstrap = "kairos-agent.bootstrap"
	// stageBefore and stageAfter run around the first start of Kubernetes, with
	// the role for their end.
	stageBefore = "provider-kairos.bootstrap.before."
	stageAfter  = "provider-kairos.bootstrap.after."
)

// stageTimeout ends a stage that hangs: it must not keep a node out for ever.
const stageTimeout = 10 * time.Minute

// runStage runs a stage once in a boot. What fails in it is said, in the log, by
// events and by why, and does not stop the node: Kairos goes on too.
func (a *Agent) runStage(ctx context.Context, name string) {
	marker := filepath.Join(a.opts.RunDir, "stages", strings.ReplaceAll(name, "/", "-"))
	if _, err := os.Stat(marker); !errors.Is(err, fs.ErrNotExist) {
		return
	}
	limited, cancel := context.WithTimeout(ctx, stageTimeout)
	defer cancel()
	err := config.Runner{Log: a.log}.RunStage(limited, name, a.opts.Config)
	if ctx.Err() != nil {
		return // cut off, and run again at the next start
	}
	if err = errors.Join(err, markStage(marker)); err != nil {
		a.log.Warn("stage failed", "stage", name, LogError, err)
		a.events.add("stage", name+" failed", err.Error())
		a.loop.note(fmt.Sprintf("stage %s of the cloud-config failed, the node goes on without: %s", name, oneLine(err.Error())))
	}
}

// markStage notes, until the machine is switched off, that a stage has run.
func markStage(marker string) error {
	if err := os.MkdirAll(filepath.Dir(marker), 0o700); err != nil {
		return fmt.Errorf("note that a stage has run: %w", err)
	}
	if err := p2p.WriteFile(marker, nil, 0o600); err != nil {
		return fmt.Errorf("note that a stage has run: %w", err)
	}
	return nil
}

// startKubernetes runs start between the stages of the role.
func (a *Agent) startKubernetes(ctx context.Context, role roles.Role, start func() error) error {
	a.runStage(ctx, stageBefore+string(role))
	if err := start(); err != nil {
		return err
	}
	a.runStage(ctx, stageAfter+string(role))
	return nil
}
