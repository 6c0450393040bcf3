package vpn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/muster-edge/muster/p2p"
)

// Resolver points this machine's own resolver at the mesh's DNS: by a drop-in
// where systemd-resolved runs, else by /etc/resolv.conf. Both are ephemeral on
// the immutable system, and what was there before comes back with Restore.
type Resolver struct {
	// Root is prepended to every path; empty outside of tests.
	Root string
	// Reload makes systemd-resolved read its drop-ins; nil runs systemctl.
	Reload func(context.Context) error
}

const (
	resolvConf     = "/etc/resolv.conf"
	resolvedRun    = "/run/systemd/resolve"
	resolvedDropIn = "/run/systemd/resolved.conf.d/muster.conf"
	// resolvedReal lists the servers that systemd-resolved itself asks.
	resolvedReal = "/run/systemd/resolve/resolv.conf"
	savedConf    = "/run/muster/resolv.conf.before"
	ourMark      = "# written by muster; the servers before are in " + savedConf
)

// Use makes server the machine's resolver and returns the servers that were in
// use before, which the mesh's DNS should forward to.
func (r Resolver) Use(ctx context.Context, server netip.Addr, search string) ([]netip.AddrPort, error) {
	if _, err := os.Stat(r.path(resolvedRun)); err == nil {
		return r.useResolved(ctx, server, search)
	}
	before, err := r.saveBefore()
	if err != nil {
		return nil, fmt.Errorf("use mesh DNS: %w", err)
	}
	text := fmt.Sprintf("%s\nnameserver %s\nsearch %s\n", ourMark, server, search)
	current, err := os.ReadFile(r.path(resolvConf))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("use mesh DNS: %w", err)
	}
	if string(current) != text {
		if err := r.writeConf([]byte(text)); err != nil {
			return nil, fmt.Errorf("use mesh DNS: %w", err)
		}
	}
	return nameservers(before, server), nil
}

func (r Resolver) useResolved(ctx context.Context, server netip.Addr, search string) ([]netip.AddrPort, error) {
	upstream, err := os.ReadFile(r.path(resolvedReal))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("use mesh DNS: %w", err)
	}
	text := fmt.Sprintf("[Resolve]\nDNS=%s\nDomains=~. %s\n", server, search)
	path := r.path(resolvedDropIn)
	if current, err := os.ReadFile(path); err == nil && string(current) == text {
		return nameservers(upstream, server), nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("use mesh DNS: %w", err)
	}
	if err := p2p.WriteFile(path, []byte(text), 0o644); err != nil {
		return nil, fmt.Errorf("use mesh DNS: %w", err)
	}
	return nameservers(upstream, server), r.reload(ctx)
}

// Restore puts back what was there before Use. It is idempotent.
func (r Resolver) Restore(ctx context.Context) error {
	if err := os.Remove(r.path(resolvedDropIn)); err == nil {
		return r.reload(ctx)
	}
	before, err := os.ReadFile(r.path(savedConf))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("restore resolver: %w", err)
	}
	if err := r.writeConf(before); err != nil {
		return fmt.Errorf("restore resolver: %w", err)
	}
	return os.Remove(r.path(savedConf))
}

// saveBefore keeps the resolv.conf that is not ours, once: an agent that
// restarts finds its own file in place and must not take that for the original.
func (r Resolver) saveBefore() ([]byte, error) {
	current, err := os.ReadFile(r.path(resolvConf))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if bytes.HasPrefix(current, []byte(ourMark)) {
		before, err := os.ReadFile(r.path(savedConf))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return before, err
	}
	if err := os.MkdirAll(filepath.Dir(r.path(savedConf)), 0o755); err != nil {
		return nil, err
	}
	return current, p2p.WriteFile(r.path(savedConf), current, 0o644)
}

// writeConf replaces resolv.conf, in place where it cannot be renamed over
// because a container or the lab mounted a file there.
func (r Resolver) writeConf(data []byte) error {
	path := r.path(resolvConf)
	if err := p2p.WriteFile(path, data, 0o644); err == nil {
		return nil
	}
	return os.WriteFile(path, data, 0o644)
}

func (r Resolver) reload(ctx context.Context) error {
	if r.Reload != nil {
		return r.Reload(ctx)
	}
	if out, err := exec.CommandContext(ctx, "systemctl", "reload-or-restart", "systemd-resolved").CombinedOutput(); err != nil {
		return fmt.Errorf("reload systemd-resolved: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func (r Resolver) path(p string) string { return filepath.Join(r.Root, p) }

// nameservers reads a resolv.conf(5) and leaves out ourselves.
func nameservers(conf []byte, self netip.Addr) []netip.AddrPort {
	var all []netip.AddrPort
	for line := range strings.Lines(string(conf)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil && a != self {
			all = append(all, netip.AddrPortFrom(a, 53))
		}
	}
	return all
}
