package k3s

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
	// connect reaches systemd; nil is the system bus, or systemd's own socket
	// where there is no bus.
	connect func(ctx context.Context) (systemdBus, error)
}

// systemdBus is what is used of *dbus.Conn.
type systemdBus interface {
	GetUnitPropertiesContext(ctx context.Context, unit string) (map[string]any, error)
	GetUnitTypePropertyContext(ctx context.Context, unit, unitType, property string) (*dbus.Property, error)
	ReloadContext(ctx context.Context) error
	StartUnitContext(ctx context.Context, name, mode string, done chan<- string) (int, error)
	StopUnitContext(ctx context.Context, name, mode string, done chan<- string) (int, error)
	Close()
}

// systemdUnit is K3s's own unit, as its installer writes it.
const systemdUnit = `# Written by muster at every start.
[Unit]
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
	bus, err := s.open(ctx)
	if err != nil {
		return fmt.Errorf("start K3s: %w", err)
	}
	defer bus.Close()
	name := unit(p.role) + ".service"
	was, err := bus.GetUnitPropertiesContext(ctx, name)
	if err != nil {
		return fmt.Errorf("start K3s: ask systemd for %s: %w", name, err)
	}
	changed, err := s.writeUnit(name, p, was)
	if err != nil {
		return fmt.Errorf("start K3s: %w", err)
	}
	// An earlier agent may have ended between writing and reloading.
	if changed || was["NeedDaemonReload"] == true || was["LoadState"] != "loaded" {
		if err := bus.ReloadContext(ctx); err != nil {
			return fmt.Errorf("start K3s: reload systemd: %w", err)
		}
	}
	switch was["ActiveState"] {
	case "active", "reloading", "activating":
		return nil // also between two attempts, which systemd paces
	}
	// K3s notifies only when it serves, which takes as long as it takes: the
	// job's end is not waited for, State tells what became of it.
	if _, err := bus.StartUnitContext(ctx, name, "replace", nil); err != nil {
		return fmt.Errorf("start K3s: unit %s: %w", name, err)
	}
	return nil
}

// writeUnit writes what is not on disk yet. was are the unit's properties.
func (s systemd) writeUnit(name string, p process, was map[string]any) (changed bool, err error) {
	own := filepath.Join(s.unitDir, name)
	dropIn := filepath.Join(s.unitDir, name+".d", "50-muster.conf")
	environment := filepath.Join(s.unitDir, name+".d", "50-muster.env")
	write := func(path, text string, mode os.FileMode) {
		var wrote bool
		if err == nil {
			wrote, err = writeChanged(path, []byte(text), mode)
			changed = changed || wrote
		}
	}
	if from, _ := was["FragmentPath"].(string); was["LoadState"] != "loaded" || from == own || from == "" {
		write(own, fmt.Sprintf(systemdUnit, p.role), 0o644)
	}
	if len(p.env) > 0 {
		// Environment= of a unit is shown to every user over D-Bus, a file is not.
		write(environment, environmentFile(p.env), 0o600)
	} else if err = os.Remove(environment); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	write(dropIn, dropInText(p, environment), 0o644)
	return changed, err
}

func dropInText(p process, environment string) string {
	var b strings.Builder
	b.WriteString("# Written by muster at every start.\n[Service]\n")
	if p.remove != "" {
		fmt.Fprintf(&b, "ExecStartPre=/bin/rm -f %s\n", quoteUnit(p.remove))
	}
	b.WriteString("ExecStart=\n")
	fmt.Fprintf(&b, "ExecStart=%s %s", quoteUnit(p.binary), p.role)
	for _, a := range p.args {
		b.WriteString(" " + quoteUnit(a))
	}
	// The image's unit may read a file that says what the site decides.
	fmt.Fprintf(&b, "\nUnsetEnvironment=%s\n", strings.Join(reservedEnvNames(), " "))
	if len(p.env) > 0 {
		fmt.Fprintf(&b, "EnvironmentFile=%s\n", environment)
	}
	return b.String()
}

func environmentFile(env map[string]string) string {
	var b strings.Builder
	for _, name := range sortedKeys(env) {
		fmt.Fprintf(&b, "%s=%s\n", name, quoteEnvironment(env[name]))
	}
	return b.String()
}

func (s systemd) running(ctx context.Context, role Role) (bool, error) {
	bus, err := s.open(ctx)
	if err != nil {
		return false, fmt.Errorf("watch K3s: %w", err)
	}
	defer bus.Close()
	name := unit(role) + ".service"
	// The state says activating between two attempts too.
	p, err := bus.GetUnitTypePropertyContext(ctx, name, "Service", "MainPID")
	if err != nil {
		return false, fmt.Errorf("watch K3s: ask systemd for %s: %w", name, err)
	}
	pid, ok := p.Value.Value().(uint32)
	if !ok {
		return false, fmt.Errorf("watch K3s: the main PID of %s is %s", name, p.Value)
	}
	return pid != 0, nil
}

func (s systemd) stop(ctx context.Context, role Role) error {
	bus, err := s.open(ctx)
	if err != nil {
		return fmt.Errorf("stop K3s: %w", err)
	}
	defer bus.Close()
	name := unit(role) + ".service"
	was, err := bus.GetUnitPropertiesContext(ctx, name)
	if err != nil {
		return fmt.Errorf("stop K3s: ask systemd for %s: %w", name, err)
	}
	switch was["ActiveState"] {
	case "inactive", "failed":
		return nil
	}
	done := make(chan string, 1)
	if _, err := bus.StopUnitContext(ctx, name, "replace", done); err != nil {
		return fmt.Errorf("stop K3s: unit %s: %w", name, err)
	}
	select {
	case result := <-done:
		if result != "done" && result != "skipped" {
			return fmt.Errorf("stop K3s: unit %s: systemd says %q", name, result)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop K3s: unit %s: %w", name, ctx.Err())
	}
}

func (s systemd) close() error { return nil }

func (s systemd) open(ctx context.Context) (systemdBus, error) {
	connect := s.connect
	if connect == nil {
		connect = func(ctx context.Context) (systemdBus, error) { return dbus.NewWithContext(ctx) }
	}
	bus, err := connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("reach systemd: %w", err)
	}
	return bus, nil
}

// quoteUnit makes one word of a unit file (systemd.syntax(7), systemd.service(5)):
// "%" and "$" are expanded even between quotes.
func quoteUnit(word string) string {
	r := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$")
	return `"` + r.Replace(word) + `"`
}

// quoteEnvironment makes one value of an environment file (systemd.exec(5)),
// where a backslash between double quotes takes the meaning of these alone.
func quoteEnvironment(value string) string {
	r := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "`", "\\`", "$", `\$`)
	return `"` + r.Replace(value) + `"`
}

// writeChanged writes the file unless it is that already.
func writeChanged(path string, text []byte, mode os.FileMode) (wrote bool, err error) {
	if current, err := os.ReadFile(path); err == nil && string(current) == string(text) {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, err
	}
	return true, p2p.WriteFile(path, text, mode)
}
