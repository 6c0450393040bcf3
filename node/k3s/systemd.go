package k3s

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/muster-edge/muster/p2p"
)

// systemd runs K3s as its own units, k3s.service and k3s-agent.service. Where
// the image brings them only a drop-in is written; both lie under /run, so that
// the next boot starts from what the site then says.
type systemd struct {
	// unitDir is /run/systemd/system.
	unitDir string
}

const systemdUnit = `[Unit]
Description=Lightweight Kubernetes (%[1]s)
Documentation=https://k3s.io
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
KillMode=process
Delegate=yes
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=5s
`

func (s systemd) start(ctx context.Context, p process) error {
	connection, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("start K3s: reach systemd: %w", err)
	}
	defer connection.Close()
	name := unit(p.role) + ".service"
	changed, err := s.writeUnit(ctx, connection, name, p)
	if err != nil {
		return fmt.Errorf("start K3s: %w", err)
	}
	if changed {
		if err := connection.ReloadContext(ctx); err != nil {
			return fmt.Errorf("start K3s: reload systemd: %w", err)
		}
	}
	// K3s notifies only when it serves, which takes as long as it takes: the
	// job's end is not waited for, State tells what became of it.
	if _, err := connection.StartUnitContext(ctx, name, "replace", nil); err != nil {
		return fmt.Errorf("start unit %s: %w", name, err)
	}
	return nil
}

func (s systemd) writeUnit(ctx context.Context, connection *dbus.Conn, name string, p process) (changed bool, err error) {
	var b strings.Builder
	b.WriteString("# Written by muster at every start.\n[Service]\nExecStart=\n")
	fmt.Fprintf(&b, "ExecStart=%s %s", quoteUnit(p.binary), p.role)
	for _, a := range p.args {
		b.WriteString(" " + quoteUnit(a))
	}
	b.WriteByte('\n')
	for _, k := range sortedKeys(p.env) {
		b.WriteString("Environment=" + quoteUnit(k+"="+p.env[k]) + "\n")
	}
	files := map[string]string{filepath.Join(s.unitDir, name+".d", "50-muster.conf"): b.String()}
	own := filepath.Join(s.unitDir, name)
	if _, err := os.Stat(own); err == nil || !s.installed(ctx, connection, name) {
		files[own] = fmt.Sprintf(systemdUnit, p.role)
	}
	for path, text := range files {
		if current, err := os.ReadFile(path); err == nil && string(current) == text {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return false, err
		}
		// The environment may hold the user's secrets.
		if err := p2p.WriteFile(path, []byte(text), 0o600); err != nil {
			return false, err
		}
		changed = true
	}
	return changed, nil
}

// installed tells whether the image brings the unit itself.
func (s systemd) installed(ctx context.Context, connection *dbus.Conn, name string) bool {
	p, err := connection.GetUnitPropertyContext(ctx, name, "LoadState")
	return err == nil && p.Value.Value() == "loaded"
}

func (s systemd) running(ctx context.Context, role Role) (bool, error) {
	connection, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return false, fmt.Errorf("watch K3s: reach systemd: %w", err)
	}
	defer connection.Close()
	p, err := connection.GetUnitPropertyContext(ctx, unit(role)+".service", "ActiveState")
	if err != nil {
		return false, fmt.Errorf("watch unit %s: %w", unit(role), err)
	}
	return slices.Contains([]any{"active", "activating", "reloading"}, p.Value.Value()), nil
}

func (s systemd) stop(ctx context.Context) error {
	connection, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("stop K3s: reach systemd: %w", err)
	}
	defer connection.Close()
	var all error
	for _, role := range []Role{Server, Agent} {
		name := unit(role) + ".service"
		done := make(chan string, 1)
		if _, err := connection.StopUnitContext(ctx, name, "replace", done); err != nil {
			if !strings.Contains(err.Error(), "not loaded") {
				all = errors.Join(all, fmt.Errorf("stop unit %s: %w", name, err))
			}
			continue
		}
		select {
		case result := <-done:
			if result != "done" && result != "skipped" {
				all = errors.Join(all, fmt.Errorf("stop unit %s: systemd says %q", name, result))
			}
		case <-ctx.Done():
			return errors.Join(all, ctx.Err())
		}
	}
	return all
}

func (s systemd) close() error { return nil }

// quoteUnit makes one word of a unit file (systemd.syntax(7), systemd.service(5)):
// "%" and "$" are expanded even between quotes.
func quoteUnit(word string) string {
	r := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "%", "%%", "$", "$$")
	return `"` + r.Replace(word) + `"`
}
