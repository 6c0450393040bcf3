package boot

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// LayoutFiles are read after stage rootfs, below /run/cos, in this order. The first sets, the others add (Kairos's way).
var LayoutFiles = []string{"cos-layout.env", "extra-layout.env", "custom-layout.env"}

// ephemeralPaths is Kairos's RW_PATHS.
var ephemeralPaths = []string{"/etc", "/srv", "/var"}

// persistentPaths is Kairos's PERSISTENT_STATE_PATHS, but for /usr/libexec: a copy of the image's programs would outlive the image, so
// only what Kubernetes keeps there is.
var persistentPaths = []string{
	"/etc/cni", "/etc/init.d", "/etc/iscsi", "/etc/k0s", "/etc/kubernetes", "/etc/modprobe.d", "/etc/pwx", "/etc/rancher", "/etc/runlevels",
	"/etc/ssh", "/etc/ssl/certs", "/etc/sysconfig", "/etc/systemd", "/etc/zfs", "/home", "/opt", "/root", "/usr/libexec/kubernetes",
	"/var/cores", "/var/lib/ca-certificates", "/var/lib/calico", "/var/lib/cni", "/var/lib/confexts", "/var/lib/containerd", "/var/lib/dbus",
	"/var/lib/etcd", "/var/lib/extensions", "/var/lib/k0s", "/var/lib/kairos", "/var/lib/kubelet", "/var/lib/longhorn", "/var/lib/osd",
	"/var/lib/rancher", "/var/lib/rook", "/var/lib/tailscale", "/var/lib/wicked", "/var/log",
}

// requiredPaths persist whatever a layout says: without them a node comes back as another one.
var requiredPaths = []string{"/etc/rancher", "/etc/ssh", "/var/lib/kubelet", "/var/lib/rancher"}

// requiredEphemeral can be written to whatever a layout says: no systemd starts without.
var requiredEphemeral = []string{"/etc", "/var"}

// Volume is a file system that a layout wants mounted.
type Volume struct{ Label, Path string }

// Layout says which paths are written to, and where that is kept.
type Layout struct {
	Overlay    string // size of the tmpfs behind the ephemeral paths, as tmpfs(5) takes it
	Ephemeral  []string
	Persistent []string
	State      string // where the persistent paths are kept
	Volumes    []Volume
	Problems   []string // what in the layout files could not be followed
}

// Persistent names of what is always there.
const (
	labelState      = "COS_STATE"
	labelOEM        = "COS_OEM"
	labelPersistent = "COS_PERSISTENT"
	pathPersistent  = "/usr/local"
	pathState       = "/usr/local/.state"
)

// NewLayout merges the contents of [LayoutFiles]; a missing file is nil. Whatever cannot be followed is left out and named in
// Problems: a typing error in a mount must not cost the boot.
func NewLayout(files [][]byte) Layout {
	l := Layout{Overlay: "25%", State: pathState, Volumes: []Volume{{labelPersistent, pathPersistent}}}
	ephemeral, persistent := ephemeralPaths, persistentPaths
	for i, data := range files {
		env, err := ParseEnv(data)
		if err != nil {
			name := "layout"
			if i < len(LayoutFiles) {
				name = LayoutFiles[i]
			}
			l.problem("read %s: %v", name, err)
		}
		if v := list(env["RW_PATHS"]); len(v) > 0 {
			ephemeral = addOrSet(ephemeral, v, i)
		}
		if v := list(env["PERSISTENT_STATE_PATHS"]); len(v) > 0 {
			persistent = addOrSet(persistent, v, i)
		}
		ephemeral = append(slices.Clone(ephemeral), list(env["CUSTOM_EPHEMERAL_MOUNTS"])...)
		persistent = append(slices.Clone(persistent), list(env["CUSTOM_BIND_MOUNTS"])...)
		if v := env["PERSISTENT_STATE_TARGET"]; v != "" {
			if within(path.Clean(v), pathPersistent) && path.Clean(v) != pathPersistent {
				l.State = path.Clean(v)
			} else {
				l.problem("PERSISTENT_STATE_TARGET=%q is not below %s", v, pathPersistent)
			}
		}
		if v := env["OVERLAY"]; v != "" {
			l.setOverlay(v)
		}
		for _, v := range list(env["VOLUMES"]) {
			l.addVolume(v)
		}
	}
	l.Ephemeral = l.paths("ephemeral", append(slices.Clone(ephemeral), requiredEphemeral...))
	l.Ephemeral = slices.DeleteFunc(l.Ephemeral, func(p string) bool {
		if within(p, pathPersistent) || within(pathPersistent, p) {
			l.problem("ephemeral path %s is %s's", p, labelPersistent)
			return true
		}
		return l.isVolume(p)
	})
	l.Persistent = l.paths("persistent", append(slices.Clone(persistent), requiredPaths...))
	names := map[string]string{}
	l.Persistent = slices.DeleteFunc(l.Persistent, func(p string) bool {
		if other, taken := names[bindName(p)]; taken { // /a/b-c and /a/b/c: one would show the other's files
			l.problem("persistent path %s is kept under the same name as %s", p, other)
			return true
		}
		names[bindName(p)] = p
		if l.isVolume(p) {
			return true // it persists by itself
		}
		if within(l.State, p) { // binding it would hide the state in itself
			l.problem("persistent path %s holds the state itself", p)
			return true
		}
		return false
	})
	return l
}

func (l *Layout) problem(format string, args ...any) {
	l.Problems = append(l.Problems, "layout: "+fmt.Sprintf(format, args...))
}

func (l *Layout) isVolume(p string) bool {
	return slices.ContainsFunc(l.Volumes, func(v Volume) bool { return v.Path == p })
}

// setOverlay takes Kairos's form (tmpfs:25%) and a bare size.
func (l *Layout) setOverlay(v string) {
	size := strings.TrimPrefix(v, "tmpfs:")
	digits := strings.TrimRight(size, "%kKmMgG")
	if digits == "" || len(size)-len(digits) > 1 || len(digits) > 12 || strings.Trim(digits, "0123456789") != "" || strings.Trim(digits, "0") == "" {
		l.problem("OVERLAY=%q is not tmpfs:SIZE", v)
		return
	}
	l.Overlay = size
}

func (l *Layout) addVolume(v string) {
	label, mountpoint, ok := strings.Cut(strings.TrimPrefix(v, "LABEL="), ":")
	mountpoint, _, _ = strings.Cut(mountpoint, ":") // mount options of Kairos's are not ours
	if label == labelOEM {
		return // /oem is mounted before any layout is read
	}
	if !ok || !strings.HasPrefix(v, "LABEL=") || label == "" || len(label) > 16 || strings.Contains(label, "/") {
		l.problem("volume %q is not LABEL=NAME:PATH", v)
		return
	}
	cleaned := l.paths("volume", []string{mountpoint})
	if len(cleaned) == 0 {
		return
	}
	volume := Volume{label, cleaned[0]}
	if label == labelPersistent && volume.Path != pathPersistent {
		l.problem("%s belongs on %s, not on %s", label, pathPersistent, volume.Path)
		return
	}
	if slices.Contains(l.Volumes, volume) {
		return
	}
	if l.isVolume(volume.Path) || slices.Contains(requiredPaths, volume.Path) || slices.Contains(requiredEphemeral, volume.Path) {
		l.problem("volume %s: %s is taken", label, volume.Path)
		return
	}
	l.Volumes = append(l.Volumes, volume)
}

// reserved are mounted by muster-init itself; a mount over them, or over a parent, breaks the boot.
var reserved = []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/oem", "/usr/lib", "/usr/bin", "/usr/sbin", "/boot"}

// paths returns what can be mounted over, cleaned, parents first, each once.
func (l *Layout) paths(what string, all []string) []string {
	var good []string
	for _, p := range all {
		cleaned := path.Clean(p)
		bad := !path.IsAbs(p) || cleaned == "/" || slices.Contains(strings.Split(p, "/"), "..") || strings.ContainsFunc(p, unprintable)
		for _, r := range reserved {
			bad = bad || within(r, cleaned) || within(cleaned, r)
		}
		if bad {
			l.problem("%s path %q cannot be mounted over", what, p)
			continue
		}
		good = append(good, cleaned)
	}
	slices.Sort(good)
	return slices.Compact(good)
}

// unprintable are the characters that overlayfs's options or a console would take for something else.
func unprintable(c rune) bool {
	return c <= ' ' || c == 0x7f || c == ',' || c == ':' || c == '\\' || c == 0xfffd
}

// within says whether p is dir or lies below it.
func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

func addOrSet(old, v []string, file int) []string {
	if file == 0 {
		return v
	}
	return append(slices.Clone(old), v...)
}

func list(v string) []string {
	return strings.FieldsFunc(v, func(c rune) bool { return c == ' ' || c == '\t' || c == '\n' || c == ',' })
}

// maxEnv bounds a layout file; stages write a few hundred bytes.
const maxEnv = 64 << 10

// ParseEnv reads KEY=value lines as systemd's EnvironmentFile= and a shell would: comments, `export`, single and double quotes. Lines
// that are none of this are left out and named in the error, beside what was understood.
func ParseEnv(data []byte) (map[string]string, error) {
	env := map[string]string{}
	if len(data) > maxEnv {
		return env, fmt.Errorf("%d bytes, more than %d", len(data), maxEnv)
	}
	var bad []string
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		key = strings.TrimSpace(key)
		value, closed := unquote(strings.TrimSpace(value))
		if !ok || !closed || key == "" || strings.Trim(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") != "" {
			bad = append(bad, fmt.Sprint(i+1))
			continue
		}
		env[key] = value
	}
	if bad != nil {
		return env, fmt.Errorf("not KEY=value: line %s", strings.Join(bad, ", "))
	}
	return env, nil
}

func unquote(v string) (string, bool) {
	if v == "" || (v[0] != '"' && v[0] != '\'') {
		return v, !strings.ContainsAny(v, "\"'\x00")
	}
	inner, rest, closed := strings.Cut(v[1:], v[:1])
	rest = strings.TrimSpace(rest)
	return inner, closed && (rest == "" || rest[0] == '#') && !strings.Contains(inner, "\x00")
}
