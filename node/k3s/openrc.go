package k3s

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/muster-edge/muster/p2p"
)

// openrc runs K3s as services of OpenRC, supervised by supervise-daemon. They
// are in no runlevel: the agent starts them, not the boot.
type openrc struct {
	// initDir is /etc/init.d.
	initDir string
	// command runs rc-service; nil runs the real one.
	command func(ctx context.Context, args ...string) ([]byte, error)
}

func (o openrc) start(ctx context.Context, p process) error {
	path := o.path(p.role)
	text := initScript(p)
	if current, err := os.ReadFile(path); err != nil || string(current) != text {
		// The environment may hold the user's secrets.
		if err := p2p.WriteFile(path, []byte(text), 0o700); err != nil {
			return fmt.Errorf("start K3s: %w", err)
		}
	}
	if on, err := o.running(ctx, p.role); err != nil || on {
		return err
	}
	if err := o.run(ctx, unit(p.role), "start"); err != nil {
		return fmt.Errorf("start K3s: %w", err)
	}
	return nil
}

// initScript is an openrc-run(8) script. command_args is evaluated once more by
// OpenRC, which is why its words are quoted twice.
func initScript(p process) string {
	var b strings.Builder
	b.WriteString("#!/sbin/openrc-run\n# Written by muster at every start.\n")
	b.WriteString("depend() {\n\tafter network-online\n\twant cgroups\n}\n")
	b.WriteString("supervisor=supervise-daemon\nrespawn_delay=5\nrespawn_max=0\n")
	// supervise-daemon starts K3s again without openrc-run, so what has to come
	// before is part of the command.
	command, words := p.binary, []string{string(p.role)}
	if p.remove != "" {
		command = "/bin/sh"
		words = []string{"-c", quoteShell(`rm -f "$0" && exec "$@"`), quoteShell(p.remove), quoteShell(p.binary), string(p.role)}
	}
	fmt.Fprintf(&b, "name=%s\ncommand=%s\n", unit(p.role), quoteShell(command))
	for _, a := range p.args {
		words = append(words, quoteShell(a))
	}
	fmt.Fprintf(&b, "command_args=%s\n", quoteShell(strings.Join(words, " ")))
	fmt.Fprintf(&b, "output_log=/var/log/%[1]s.log\nerror_log=/var/log/%[1]s.log\n", unit(p.role))
	// /etc/conf.d and rc.conf may say what the site decides.
	fmt.Fprintf(&b, "unset %s\n", strings.Join(reservedEnvNames(), " "))
	for _, k := range sortedKeys(p.env) {
		fmt.Fprintf(&b, "export %s=%s\n", k, quoteShell(p.env[k]))
	}
	return b.String()
}

// running asks rc-service, which answers with its exit code: 0 when the service
// is started, another when it is stopped or crashed.
func (o openrc) running(ctx context.Context, role Role) (bool, error) {
	if _, err := os.Stat(o.path(role)); err != nil {
		return false, nil // there is no such service
	}
	err := o.run(ctx, unit(role), "status")
	var exit exitCoder
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return false, nil
	}
	return err == nil, err
}

// exitCoder is *exec.ExitError.
type exitCoder interface{ ExitCode() int }

func (o openrc) stop(ctx context.Context, role Role) error {
	if _, err := os.Stat(o.path(role)); err != nil {
		return nil
	}
	// Not --ifstarted: a service that crashed, or is between two attempts, has to
	// be kept from coming back too. Stopping a stopped one is no error to OpenRC.
	if err := o.run(ctx, unit(role), "stop"); err != nil {
		return fmt.Errorf("stop K3s: %w", err)
	}
	return nil
}

func (o openrc) close() error { return nil }

func (o openrc) path(role Role) string { return o.initDir + "/" + unit(role) }

func (o openrc) run(ctx context.Context, args ...string) error {
	command := o.command
	if command == nil {
		command = func(ctx context.Context, args ...string) ([]byte, error) {
			return exec.CommandContext(ctx, "rc-service", args...).CombinedOutput()
		}
	}
	out, err := command(ctx, args...)
	if err != nil {
		return fmt.Errorf("rc-service %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

func quoteShell(word string) string {
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
