// Package osimage_test checks what deploy/os is made of without building an image: e2e/vm boots one.
package osimage_test

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// tree is as much of an image as the variants touch.
func tree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	put := func(path, text string, mode os.FileMode) {
		path = filepath.Join(root, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), mode))
	}
	put("boot/vmlinuz", strings.Repeat("kernel", 1<<17), 0o644)
	put("usr/lib/systemd/systemd", "#!/bin/sh\n", 0o755)
	put("usr/lib/muster/packages", "", 0o644)
	put("usr/lib/systemd/system/multi-user.target.wants/README", "", 0o644)
	put("usr/lib/systemd/system/muster.service", read(t, "../systemd/muster.service"), 0o644)
	put("usr/bin/k3s", "#!/bin/sh\n[ \"$1\" = --version ] && echo 'k3s version v1.36.3+k3s1 (abc)'\n", 0o755)
	self, err := os.ReadFile(os.Args[0])
	require.NoError(t, err)
	put("usr/bin/muster", string(self), 0o755)
	return root
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

// with applies the variant to a new tree.
func with(t *testing.T, variant string) string {
	t.Helper()
	root := tree(t)
	out, err := exec.Command("variants/"+variant, root).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return root
}

func TestEveryVariantAppliesAndIsDocumented(t *testing.T) {
	found, err := filepath.Glob("variants/*")
	require.NoError(t, err)
	require.NotEmpty(t, found)
	page := read(t, "../../docs/os-image.md")
	for _, path := range found {
		name := filepath.Base(path)
		with(t, name)
		require.Contains(t, page, "`"+name+"`")
	}
}

func TestVariantsAreIllInTheWayTheyAreCalled(t *testing.T) {
	file, err := elf.Open(filepath.Join(with(t, "wrong-arch"), "usr/bin/muster"))
	require.NoError(t, err)
	defer file.Close()
	require.Equal(t, elf.EM_AARCH64, file.Machine)

	k3s := filepath.Join(with(t, "k3s-dead"), "usr/bin/k3s")
	said, err := exec.Command(k3s, "--version").Output()
	require.NoError(t, err, "the driver must take it for K3s")
	require.Equal(t, "k3s version v1.36.3+k3s1 (abc)\n", string(said))
	require.Error(t, exec.Command(k3s, "server").Run())

	require.Contains(t, read(t, filepath.Join(with(t, "agent-dead"), "usr/lib/systemd/system/muster.service")), "\nExecStart=/bin/false\n")

	head := read(t, filepath.Join(with(t, "broken-kernel"), "boot/vmlinuz"))
	require.True(t, strings.HasPrefix(head, "kernel"), "GRUB must like it")
	require.True(t, strings.HasPrefix(read(t, filepath.Join(with(t, "bad-kernel"), "boot/vmlinuz")), "xxxx"))
}

func TestTheProductRunsNothingThatAMachineHandsIt(t *testing.T) {
	err := filepath.WalkDir("files", func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		require.NotContains(t, read(t, path), "fw_cfg", path)
		return nil
	})
	require.NoError(t, err)
	require.NotContains(t, read(t, "build"), "muster-test")
}

func TestEveryUnitThatCanBeEnabledIs(t *testing.T) {
	build := read(t, "build")
	units, err := filepath.Glob("../systemd/*")
	require.NoError(t, err)
	for _, path := range units {
		switch unit := read(t, path); {
		case filepath.Base(path) == "muster-relay.service":
			require.NotContains(t, build, filepath.Base(path), "a relay is what somebody makes of a machine")
			require.Contains(t, unit, "[Install]")
		case strings.Contains(unit, "[Install]"):
			require.Contains(t, build, filepath.Base(path))
		default:
			require.FileExists(t, strings.TrimSuffix(path, "service")+"timer", "%s is started by nothing", path)
		}
	}
}

func TestAnAgentThatPanicsIsStartedAgain(t *testing.T) {
	unit := read(t, "../systemd/muster.service")
	require.Contains(t, unit, "RestartPreventExitStatus=2\n")
	require.Contains(t, unit, "Environment=GOTRACEBACK=crash\n", "else a panic ends with 2, as a wrong configuration does")
}

func TestListsNameNothingTwice(t *testing.T) {
	comment := regexp.MustCompile(`#.*`)
	for _, list := range []string{"packages", "modules"} {
		seen := map[string]bool{}
		for _, word := range strings.Fields(comment.ReplaceAllString(read(t, list), "")) {
			require.False(t, seen[word], "%s has %s twice", list, word)
			seen[word] = true
		}
	}
}

func TestAHostKeyIsMadeOnceAndMadeAgainWhenItIsHalf(t *testing.T) {
	bin := t.TempDir()
	// Stands for ssh-keygen, which a machine that tests need not have.
	require.NoError(t, os.WriteFile(filepath.Join(bin, "ssh-keygen"), []byte(`#!/bin/sh
for last; do :; done
if [ "$1" = -y ]; then grep -q '^whole' "$last"; exit; fi
[ ! -e "$last" ] || exit 1
echo "whole $$" > "$last"; echo public > "$last.pub"
`), 0o755))
	key := filepath.Join(t.TempDir(), "key")
	run := func() string {
		cmd := exec.Command("files/usr/lib/muster/ssh-host-key", key)
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.FileExists(t, key+".pub")
		return read(t, key)
	}
	first := run()
	require.Equal(t, first, run())
	require.NoError(t, os.WriteFile(key, nil, 0o600))
	require.NoError(t, os.WriteFile(key+".new", []byte("ha"), 0o600))
	require.Contains(t, run(), "whole")
}
