package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/node"
	"github.com/muster-edge/muster/upgrade"
	"github.com/muster-edge/muster/upgrade/image"
)

const cosigned = "../../upgrade/image/testdata/cosign/"

// enough is room for a slot of the images here; the second is not.
const (
	enough = 90
	scarce = 8
)

func TestAnUpgradeThatCannotBeSaysWhyAndLeavesTheSlotsAlone(t *testing.T) {
	layout := func(t *testing.T) string { l, _ := packed(t, "v2"); return l }
	t.Run("the image is larger than any slot that fits", func(t *testing.T) {
		b := newBox(t, scarce)
		b.refuses(t, []string{"--source", "ocifile:" + layout(t)}, node.ExitFailed, "v2 (", "not enough space", "MiB are free", "muster install")
	})
	b := newBox(t, enough)
	for name, c := range map[string]struct {
		args func(t *testing.T) []string
		code int
		want []string // in what is said
	}{
		"the disk is full while pulling": {
			func(t *testing.T) []string {
				require.NoError(t, os.MkdirAll(upgradeCache, 0o700))
				tool(t, "mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", upgradeCache)
				t.Cleanup(func() { tool(t, "umount", upgradeCache) })
				return []string{"--insecure", "--source", push(t, layout(t), registry(t, nil))}
			},
			node.ExitFailed,
			[]string{"no space left on device", "images/partial", "free some space there"},
		},
		"another processor": {
			func(t *testing.T) []string {
				out := t.TempDir()
				_, err := image.Pack(t.Context(), image.PackOptions{Root: tree(t, "v2"), Out: out, Platform: otherPlatform()})
				require.NoError(t, err)
				return []string{"--source", "ocifile:" + out}
			},
			node.ExitFailed,
			[]string{"wrong platform", "offered is " + otherPlatform(), "built for this processor"},
		},
		"a truncated blob": {
			func(t *testing.T) []string {
				l := layout(t)
				file, size := layer(t, l)
				require.NoError(t, os.Truncate(file, size/2))
				return []string{"--source", "ocifile:" + l}
			},
			node.ExitFailed,
			[]string{"truncated", "fetch or push the image again"},
		},
		"a wrong digest": {
			func(t *testing.T) []string {
				l := layout(t)
				file, size := layer(t, l)
				f, err := os.OpenFile(file, os.O_RDWR, 0)
				require.NoError(t, err)
				_, err = f.WriteAt([]byte("changed"), size/2)
				require.NoError(t, err)
				require.NoError(t, f.Close())
				return []string{"--source", "ocifile:" + l}
			},
			node.ExitFailed,
			[]string{"does not match its digest"},
		},
		"another digest than was asked for": {
			func(t *testing.T) []string {
				return []string{"--insecure", "--source", push(t, layout(t), registry(t, nil)) + "@sha256:" + strings.Repeat("0", 64)}
			},
			node.ExitFailed,
			[]string{"no such image"},
		},
		"no signature": {
			func(t *testing.T) []string {
				return []string{"--source", "ocifile:" + layout(t), "--key", cosigned + "ec.pub"}
			},
			node.ExitRefused,
			[]string{"not signed", "cosign sign"},
		},
		"no signature, and the cloud-config names the key": {
			func(t *testing.T) []string {
				key, err := filepath.Abs(cosigned + "ec.pub")
				require.NoError(t, err)
				return []string{"--source", "ocifile:" + layout(t), "--config", write(t, "#cloud-config\ncosign: true\ncosign-key: "+key+"\n")}
			},
			node.ExitRefused,
			[]string{"not signed"},
		},
		"no signature is possible": {
			func(t *testing.T) []string {
				return []string{"--source", "dir:" + tree(t, "v2"), "--key", cosigned + "ec.pub"}
			},
			node.ExitRefused,
			[]string{"not signed", "only oci: and ocifile:"},
		},
		"somebody else's signature": {
			func(*testing.T) []string {
				return []string{"--source", "ocifile:" + cosigned + "image", "--key", cosigned + "other.pub"}
			},
			node.ExitRefused,
			[]string{"no valid signature", "not made by this key"},
		},
		"a path that leaves the tree": {
			func(t *testing.T) []string { return []string{"--source", "file:" + escaping(t)} },
			node.ExitFailed,
			[]string{"unsafe path", "evil"},
		},
		"an image that cannot be booted": {
			func(t *testing.T) []string {
				root := tree(t, "v2")
				require.NoError(t, os.Remove(filepath.Join(root, "usr/lib/muster/grub/core.img")))
				return []string{"--source", "dir:" + root}
			},
			node.ExitFailed,
			[]string{"cannot be booted: /usr/lib/muster/grub/core.img: is missing", "muster image check"},
		},
		"nothing there": {
			func(*testing.T) []string { return []string{"--source", "dir:/nowhere"} },
			node.ExitFailed,
			[]string{"no such image"},
		},
		"no form": {
			func(*testing.T) []string { return []string{"--source", "box:v7"} },
			node.ExitUsage,
			[]string{"use oci:NAME"},
		},
		"a private key": {
			func(t *testing.T) []string {
				key := write(t, "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n")
				return []string{"--source", "dir:/", "--key", key}
			},
			node.ExitUsage,
			[]string{"the public half is needed"},
		},
		"no source anywhere": {
			func(t *testing.T) []string { return []string{"--config", write(t, "#cloud-config\nhostname: box\n")} },
			node.ExitUsage,
			[]string{"which image?", "upgrade.system.source"},
		},
		"no source for recovery": {
			func(t *testing.T) []string {
				return []string{"--recovery", "--config", write(t, "#cloud-config\nupgrade: {system: {source: 'dir:/'}}\n")}
			},
			node.ExitUsage,
			[]string{"upgrade.recovery-system.source"},
		},
		"a source that is none in the cloud-config": {
			func(t *testing.T) []string {
				return []string{"--config", write(t, "#cloud-config\nupgrade: {system: {source: 'box:v7'}}\n")}
			},
			node.ExitUsage,
			[]string{"upgrade.system.source of the cloud-config", "use oci:NAME"},
		},
		"a configuration that cannot be read may demand signatures": {
			func(t *testing.T) []string {
				return []string{"--source", "dir:" + tree(t, "v2"), "--config", write(t, "#cloud-config\np2p: [1\n")}
			},
			node.ExitUsage,
			[]string{"whether a signature is demanded", "--key FILE"},
		},
		"keyless signatures": {
			func(t *testing.T) []string {
				return []string{"--source", "dir:/", "--config", write(t, "#cloud-config\ncosign: true\n")}
			},
			node.ExitUsage,
			[]string{"names no cosign-key"},
		},
		"on trial": {
			func(t *testing.T) []string {
				b.starts(t, "active", "another")
				t.Cleanup(func() { b.starts(t, "active", "v1") })
				return []string{"--source", "ocifile:" + layout(t), "--force"}
			},
			node.ExitRefused,
			[]string{"on trial", "muster why"},
		},
		"quarantined": {
			func(t *testing.T) []string {
				l, digest := packed(t, "v3")
				b.quarantine(t, strings.TrimPrefix(digest, "sha256:"))
				return []string{"--source", "ocifile:" + l}
			},
			node.ExitRefused,
			[]string{"quarantined on this hardware since 2026-11-25: k3s is dead", "unquarantine", "--force"},
		},
		"one at a time": {
			func(t *testing.T) []string {
				f, err := os.Create(filepath.Join(b.Run, "upgrade.lock"))
				require.NoError(t, err)
				require.NoError(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
				t.Cleanup(func() { require.NoError(t, f.Close()) })
				return []string{"--source", "ocifile:" + layout(t)}
			},
			node.ExitRefused,
			[]string{"another upgrade is at work", "wait until it is done"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b.refuses(t, c.args(t), c.code, c.want...)
		})
	}
}

// refuses runs an upgrade that cannot be.
func (b *box) refuses(t *testing.T, args []string, code int, wants ...string) {
	t.Helper()
	r := muster(t, "", append([]string{"upgrade"}, args...)...)
	require.Equal(t, code, r.code, r.complain)
	for _, want := range wants {
		require.Contains(t, r.complain, want)
	}
	require.Empty(t, r.stdout)
	require.Equal(t, untouched, b.holds(t))
	b.noTransition(t)
}

func (b *box) noTransition(t *testing.T) {
	t.Helper()
	at := t.TempDir()
	tool(t, "mount", "-o", "ro", b.StateDevice, at)
	defer unmount(t, at)
	require.NoFileExists(t, filepath.Join(at, upgrade.SlotFile("transition")))
}

func (b *box) quarantine(t *testing.T, ids ...string) {
	t.Helper()
	var all []map[string]string
	for _, id := range ids {
		all = append(all, map[string]string{"id": id, "model": b.Model, "reason": "k3s is dead", "since": "2026-11-25T03:40:00Z"})
	}
	data, err := json.Marshal(map[string]any{"quarantined": all})
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(b.OEM, "muster"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(b.OEM, "muster/upgrade.json"), data, 0o600))
}

// cable is a registry's: once it is to be pulled, the bytes stop in the middle of a blob, and nothing follows.
type cable struct {
	pull, out atomic.Bool
	ranged    atomic.Bool // somebody asked for the rest of something
}

func (k *cable) around(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			k.ranged.Store(true)
		}
		if k.out.Load() {
			panic(http.ErrAbortHandler)
		}
		if k.pull.Load() && strings.Contains(r.URL.Path, "/blobs/") {
			w = &cutWriter{w, k, 600 << 10}
		}
		h.ServeHTTP(w, r)
	})
}

type cutWriter struct {
	http.ResponseWriter
	cable *cable
	left  int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if c.left -= len(p); c.left >= 0 {
		return c.ResponseWriter.Write(p)
	}
	_, _ = c.ResponseWriter.Write(p[:len(p)+c.left]) // nobody is told any more
	_ = http.NewResponseController(c.ResponseWriter).Flush()
	c.cable.out.Store(true)
	panic(http.ErrAbortHandler)
}

func TestARegistryThatIsUnpluggedInMidPullIsContinuedLater(t *testing.T) {
	b := newBox(t, enough)
	var k cable
	l, _ := packed(t, "v2")
	_, size := layer(t, l)
	require.Greater(t, size, int64(700<<10), "or nothing is cut")
	source := push(t, l, registry(t, k.around))
	k.pull.Store(true)
	r := muster(t, "", "upgrade", "--insecure", "--source", source)
	require.Equal(t, node.ExitFailed, r.code, r.complain)
	require.Contains(t, r.complain, "registry out of reach")
	require.Contains(t, r.complain, "what was pulled so far is kept")
	require.Equal(t, untouched, b.holds(t))

	k.pull.Store(false)
	k.out.Store(false)
	k.ranged.Store(false)
	r = muster(t, "", "upgrade", "--insecure", "--source", source)
	require.Equal(t, node.ExitDone, r.code, r.complain)
	require.True(t, k.ranged.Load(), "it was not pulled again from the start")
	require.Equal(t, "v2", b.holds(t)["active"])
	left, err := filepath.Glob(filepath.Join(upgradeCache, "*", "*"))
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(upgradeCache, "blobs/sha256")}, left, "nobody needs the blobs any more")
	blobs, err := os.ReadDir(left[0])
	require.NoError(t, err)
	require.Empty(t, blobs)
}

func TestAnInterruptedUpgradeSaysThatNothingChanged(t *testing.T) {
	b := newBox(t, enough)
	ctx, cancel := context.WithCancel(t.Context())
	l, _ := packed(t, "v2")
	host := registry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				cancel()
			}
			h.ServeHTTP(w, r)
		})
	})
	source := push(t, l, host)
	root := newRootCommand()
	var said strings.Builder
	root.SetOut(&said)
	root.SetErr(&said)
	root.SetArgs([]string{"upgrade", "--insecure", "--source", source})
	require.Equal(t, node.ExitFailed, finish(root.ExecuteContext(ctx), &said))
	require.Contains(t, said.String(), "muster: interrupted; the machine is as it was before\n")
	require.Equal(t, untouched, b.holds(t))
}

func TestTheCloudConfigNamesTheImageAndTheRestart(t *testing.T) {
	b := newBox(t, enough)
	l, digest := packed(t, "v2")
	config := write(t, fmt.Sprintf("#cloud-config\nupgrade:\n  reboot: true\n  system: {source: 'ocifile:%s'}\n", l))
	r := muster(t, "", "upgrade", "--config", config)
	require.Equal(t, node.ExitDone, r.code, r.complain)
	require.Equal(t, "active holds v2 ("+digest[:19]+"); restarting to try it\n", r.stdout)
	require.Contains(t, r.complain, "read back")
	require.Equal(t, 1, b.restarts)
	require.Equal(t, map[string]string{"active": "v2", "passive": "v1", "recovery": "recovery"}, b.holds(t))

	r = muster(t, "", "upgrade", "--config", config)
	require.Equal(t, node.ExitDone, r.code, r.complain)
	require.Contains(t, r.stdout, "already; nothing to do")
	require.Equal(t, 1, b.restarts, "there is nothing to try")

	r = muster(t, "", "state")
	require.Equal(t, node.ExitDone, r.code, r.complain)
	require.Contains(t, r.stdout, "Runs v1 (sha256:"+idOf("v1")[:12]+") from active; an upgrade moved it to passive; it proved good.\n")
	require.Regexp(t, `active +v2 +`+digest[:19]+` +no +0 +the next boot tries it\n`, r.stdout)
	require.Contains(t, r.stdout, "v2 ("+digest[:19]+") in active, from ocifile:"+l+"\n")
}

func TestTheResultOfAnUpgradeIsJSON(t *testing.T) {
	newBox(t, enough)
	l, digest := packed(t, "v2")
	r := muster(t, "", "upgrade", "--source", "ocifile:"+l, "-o", "json")
	require.Equal(t, node.ExitDone, r.code, r.complain)
	require.JSONEq(t, `{"slot":"active","id":"`+digest[7:]+`","version":"v2","unchanged":false}`, r.stdout)
}

func TestTheStateInJSONHasExactlyWhatIsPromised(t *testing.T) {
	b := newBox(t, scarce)
	b.quarantine(t, id("2"))
	r := muster(t, "", "state", "-o", "json")
	require.Equal(t, node.ExitDone, r.code, r.complain)
	slot := func(version string, good bool) string {
		return fmt.Sprintf(`{"version":%q,"digest":"sha256:%s","good":%s,"tries":0}`, version, idOf(version), strconv.FormatBool(good))
	}
	require.JSONEq(t, `{"booted":"active",
		"slots":{"active":`+slot("v1", true)+`,"passive":`+slot("v0", false)+`,"recovery":`+slot("recovery", false)+`},
		"quarantined":[{"id":"`+id("2")+`","model":"ACME box","reason":"k3s is dead","since":"2026-11-25T03:40:00Z"}],
		"last_upgrade":null,"fallback_reason":"","problems":[]}`, r.stdout)

	r = muster(t, "", "state", "--verify")
	require.Equal(t, node.ExitDone, r.code, r.complain)
	require.Equal(t, 3, strings.Count(r.stdout, "every file is what it should be"))
}

func TestADamagedSlotIsAFailureThatSaysHowToRepairIt(t *testing.T) {
	b := newBox(t, scarce)
	at := t.TempDir()
	tool(t, "mount", b.RecoveryDevice, at)
	require.NoError(t, os.Truncate(filepath.Join(at, upgrade.SlotFile(upgrade.Recovery)), 100<<10))
	unmount(t, at)
	require.Equal(t, node.ExitDone, muster(t, "", "state").code)
	r := muster(t, "", "state", "--verify")
	require.Equal(t, node.ExitFailed, r.code)
	require.Contains(t, r.complain, "`muster upgrade --recovery --source REF` writes it anew")
}

func TestAMachineWithoutSlotsSaysSoFirst(t *testing.T) {
	b := newBox(t, scarce)
	require.NoError(t, os.Remove(filepath.Join(b.Run, "boot.json")))
	for _, args := range [][]string{
		{"upgrade", "--source", "dir:/nowhere"}, {"upgrade", "unquarantine", "x", "--reason", "y"}, {"rollback"}, {"reset", "--yes"}, {"state"}, {"drift"},
	} {
		r := muster(t, "", args...)
		require.Equal(t, node.ExitFailed, r.code, args)
		require.Contains(t, r.complain, "does not run from a slot", args)
		require.Contains(t, r.complain, "muster install --help", args)
		require.Empty(t, r.stdout)
	}
	require.Zero(t, b.restarts)
}

func TestUnquarantineTakesTheBeginningOfADigest(t *testing.T) {
	b := newBox(t, scarce)
	first, second := "ab1"+strings.Repeat("0", 61), "ab2"+strings.Repeat("0", 61)
	b.quarantine(t, first, second)
	require.Contains(t, muster(t, "", "__complete", "upgrade", "unquarantine", "").stdout, first+"\n"+second+"\n")
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"ab"}, node.ExitUsage, "why? --reason TEXT"},
		{[]string{"ab", "--reason", "switch"}, node.ExitUsage, "2 quarantined images begin with"},
		{[]string{"ff", "--reason", "switch"}, node.ExitRefused, "is not quarantined"},
		{[]string{"sha256:ab2", "--reason", "switch"}, node.ExitDone, ""},
		{[]string{"sha256:ab2", "--reason", "switch"}, node.ExitRefused, "is not quarantined"},
	} {
		r := muster(t, "", append([]string{"upgrade", "unquarantine"}, c.args...)...)
		require.Equal(t, c.code, r.code, r.complain)
		require.Contains(t, r.complain, c.want)
	}
	s, err := b.State(t.Context(), false)
	require.NoError(t, err)
	require.Len(t, s.Quarantined, 1)
}

// onTerminal makes the commands believe that somebody is there to answer.
func onTerminal(t *testing.T) {
	was := isTerminal
	isTerminal = func(any) bool { return true }
	t.Cleanup(func() { isTerminal = was })
}

func TestARollbackAsksOnATerminalOnly(t *testing.T) {
	b := newBox(t, scarce)
	b.starts(t, "passive", "v0")
	require.NoError(t, b.MarkGood(upgrade.Options{}))
	b.starts(t, "active", "v1")
	goodIn := func(slot string) bool {
		s, err := b.State(t.Context(), false)
		require.NoError(t, err)
		return s.Slots[slot].Good
	}
	t.Run("terminal", func(t *testing.T) {
		onTerminal(t)
		r := muster(t, "no\n", "rollback", "--reboot")
		require.Equal(t, node.ExitRefused, r.code)
		require.Contains(t, r.complain, "From the next boot on this machine starts v0")
		require.Contains(t, r.complain, "nothing was changed")
		require.True(t, goodIn("active"))
	})
	r := muster(t, "", "rollback", "--reboot")
	require.Equal(t, node.ExitDone, r.code, r.complain)
	require.Equal(t, "passive starts from the next boot on; restarting\n", r.stdout)
	require.Equal(t, 1, b.restarts)
	require.False(t, goodIn("active"))
	require.True(t, goodIn("passive"))
}

func TestARollbackToWhatNeverProvedGoodIsRefused(t *testing.T) {
	newBox(t, scarce)
	r := muster(t, "", "rollback")
	require.Equal(t, node.ExitRefused, r.code)
	require.Contains(t, r.complain, "did not prove good; --force")
}

func TestAResetNeedsAYes(t *testing.T) {
	b := newBox(t, scarce)
	r := muster(t, "reset\n", "reset")
	require.Equal(t, node.ExitUsage, r.code, "nobody is there")
	require.Contains(t, r.complain, "--yes")
	t.Run("terminal", func(t *testing.T) {
		onTerminal(t)
		r := muster(t, "yes\n", "reset")
		require.Equal(t, node.ExitRefused, r.code)
		require.Contains(t, r.complain, "will be lost")
		require.Zero(t, b.restarts)
		require.Equal(t, node.ExitDone, muster(t, "reset\n", "reset").code)
	})
	require.Equal(t, node.ExitDone, muster(t, "", "reset", "--yes").code)
	require.Equal(t, 2, b.restarts)
}

func TestDriftIsListedOrSaidToBeNone(t *testing.T) {
	b := newBox(t, scarce)
	require.NoError(t, os.MkdirAll(filepath.Join(b.Root, "etc"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(b.Root, "etc/os-release"), []byte("v1etc/os-release"), 0o644))
	r := muster(t, "", "drift")
	require.Equal(t, node.ExitDone, r.code, r.complain)
	require.Contains(t, r.stdout, "no drift")
	require.JSONEq(t, `[]`, muster(t, "", "drift", "-o", "json").stdout)
	require.NoError(t, os.WriteFile(filepath.Join(b.Root, "etc/mine"), nil, 0o600))
	require.Equal(t, "added    /etc/mine\n", muster(t, "", "drift").stdout)
}
