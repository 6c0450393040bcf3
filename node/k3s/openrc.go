package k3s

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/muster-edge/muster/p2p"
)

// openrc runs K3s as services of OpenRC, supervised by supervise-daemon.
type openrc struct {
	// initDir is /etc/init.d.
	initDir string
	// command runs rc-service; nil runs the real one.
	command func(ctx context.Context, args ...string) ([]byte, error)
}

func (o openrc) start(ctx context.Context, p process) error {
	var b strings.Builder
	b.WriteString("#!/sbin/openrc-run\n# Written by muster at every start.\ndepend() {\n\tafter network-online\n\twant cgroups\n}\n")
	b.WriteString("supervisor=supervise-daemon\nrespawn_delay=5\nrespawn_max=0\n")
	fmt.Fprintf(&b, "name=%s\ncommand=%s\n", unit(p.role), quoteShell(p.binary))
	words := []string{string(p.role)}
	for _, a := range p.args {
		words = append(words, quoteShell(a))
	}
	fmt.Fprintf(&b, "command_args=%s\n", quoteShell(strings.Join(words, " ")))
	fmt.Fprintf(&b, "output_log=/var/log/%[1]s.log\nerror_log=/var/log/%[1]s.log\n", unit(p.role))
	for _, k := range sortedKeys(p.env) {
		fmt.Fprintf(&b, "export %s=%s\n", k, quoteShell(p.env[k]))
	}
	path := o.initDir + "/" + unit(p.role)
	if current, err := os.ReadFile(path); err != nil || string(current) != b.String() {
		if err := p2p.WriteFile(path, []byte(b.String()), 0o700); err != nil {
			return fmt.Errorf("start K3s: %w", err)
		}
	}
	_, err := o.run(ctx, unit(p.role), "--ifstopped", "start")
	return err
}

func (o openrc) running(ctx context.Context, role Role) (bool, error) {
	_, err := o.run(ctx, unit(role), "status")
	return err == nil, nil // rc-service answers with its exit code
}

func (o openrc) stop(ctx context.Context) error {
	for _, role := range []Role{Server, Agent} {
		if _, err := os.Stat(o.initDir + "/" + unit(role)); err != nil {
			continue
		}
		if _, err := o.run(ctx, unit(role), "--ifstarted", "stop"); err != nil {
			return err
		}
	}
	return nil
}

func (o openrc) close() error { return nil }

func (o openrc) run(ctx context.Context, args ...string) ([]byte, error) {
	command := o.command
	if command == nil {
		command = func(ctx context.Context, args ...string) ([]byte, error) {
			return exec.CommandContext(ctx, "rc-service", args...).CombinedOutput()
		}
	}
	out, err := command(ctx, args...)
	if err != nil {
		return nil, fmt.Errorf("rc-service %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return out, nil
}

func quoteShell(word string) string {
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
