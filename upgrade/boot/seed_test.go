package boot

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestASeedIsTheImagesTree(t *testing.T) {
	root, state := t.TempDir(), filepath.Join(t.TempDir(), ".state")
	dir := filepath.Join(root, "etc/ssh")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o750))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "key"), []byte("secret"), 0o600))
	require.NoError(t, os.Chown(filepath.Join(dir, "key"), 7, 8))
	require.NoError(t, os.Symlink("/nowhere", filepath.Join(dir, "link")))
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	require.NoError(t, os.Chmod(dir, fs.ModeSticky|0o711))
	old := time.Unix(1e9, 0)
	require.NoError(t, os.Chtimes(filepath.Join(dir, "key"), old, old))

	require.NoError(t, seed(root, state, []string{"/etc/ssh", "/var/lib/rancher"}))

	kept := filepath.Join(state, "etc-ssh.bind")
	info, err := os.Stat(filepath.Join(kept, "key"))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode())
	require.Equal(t, old, info.ModTime())
	require.EqualValues(t, 7, info.Sys().(*syscall.Stat_t).Uid)
	require.EqualValues(t, 8, info.Sys().(*syscall.Stat_t).Gid)
	link, err := os.Readlink(filepath.Join(kept, "link"))
	require.NoError(t, err)
	require.Equal(t, "/nowhere", link)
	require.NoFileExists(t, filepath.Join(kept, "pipe"))
	info, err = os.Stat(kept)
	require.NoError(t, err)
	require.Equal(t, fs.ModeDir|fs.ModeSticky|0o711, info.Mode())
	require.DirExists(t, filepath.Join(state, "var-lib-rancher.bind"), "what the image lacks starts empty")
	require.NoDirExists(t, kept+".new")
}

func TestASeedIsNotWrittenTwice(t *testing.T) {
	root, state := t.TempDir(), t.TempDir()
	require.NoError(t, os.MkdirAll(root+"/opt", 0o755))
	require.NoError(t, os.WriteFile(root+"/opt/a", []byte("image"), 0o644))
	require.NoError(t, seed(root, state, []string{"/opt"}))
	require.NoError(t, os.WriteFile(state+"/opt.bind/a", []byte("machine"), 0o644))
	require.NoError(t, seed(root, state, []string{"/opt"}))
	data, err := os.ReadFile(state + "/opt.bind/a")
	require.NoError(t, err)
	require.Equal(t, "machine", string(data))
}

func TestASeedThatWasCutOffIsMadeAnew(t *testing.T) {
	root, state := t.TempDir(), t.TempDir()
	require.NoError(t, os.MkdirAll(root+"/opt", 0o755))
	require.NoError(t, os.WriteFile(root+"/opt/a", []byte("whole"), 0o644))
	require.NoError(t, os.MkdirAll(state+"/opt.bind.new", 0o755))
	require.NoError(t, os.WriteFile(state+"/opt.bind.new/a", []byte("who"), 0o644))
	require.NoError(t, seed(root, state, []string{"/opt"}))
	data, err := os.ReadFile(state + "/opt.bind/a")
	require.NoError(t, err)
	require.Equal(t, "whole", string(data))
}

func TestAPathThatCannotBeSeededDoesNotKeepTheOthersFromIt(t *testing.T) {
	root, state := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(root+"/file", nil, 0o644))
	err := seed(root, state, []string{"/file", "/opt"})
	require.ErrorContains(t, err, "seed /file")
	require.DirExists(t, state+"/opt.bind")
	require.NoDirExists(t, state+"/file.bind")
}

func TestAMachineKeepsItsID(t *testing.T) {
	dir := t.TempDir()
	kept, target := dir+"/local/etc/machine-id", dir+"/machine-id"
	require.NoError(t, persistID(kept, target))
	first, err := readID(target)
	require.NoError(t, err)
	require.Equal(t, byte('4'), first[12], "a version 4 UUID")
	require.NoError(t, os.Remove(target))
	require.NoError(t, persistID(kept, target))
	second, err := readID(target)
	require.NoError(t, err)
	require.Equal(t, first, second)
}

func TestANonsenseIDIsReplaced(t *testing.T) {
	for _, bad := range []string{"", "uninitialized\n", strings.Repeat("0", 32), strings.Repeat("g", 32), strings.Repeat("a", 33)} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(dir+"/kept", []byte(bad), 0o644))
		require.NoError(t, persistID(dir+"/kept", dir+"/machine-id"))
		id, err := readID(dir + "/kept")
		require.NoError(t, err, bad)
		require.NotEqual(t, bad, id)
	}
}

func TestAMachineHasAnIDEvenWhenItCannotBeKept(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/local", nil, 0o644)) // in the way of a directory
	require.ErrorContains(t, persistID(dir+"/local/machine-id", dir+"/machine-id"), "keep the machine-id")
	_, err := readID(dir + "/machine-id")
	require.NoError(t, err)
}
