package upgrade

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Another disk's data must not be wiped, nor its slots be overwritten.
func TestThePartitionsAreThoseOfTheDiskThatTheMachineWasStartedFrom(t *testing.T) {
	dir := t.TempDir()
	f := finder{sys: filepath.Join(dir, "class"), links: filepath.Join(dir, "disk"), from: "/dev/sdb5"}
	put := func(path, text string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	for _, disk := range []string{"sda", "sdb"} {
		for number, name := range map[string]string{"5": "state", "6": "persistent"} {
			put(filepath.Join(dir, "devices", disk, disk+number, "uevent"), "PARTN="+number+"\nPARTNAME="+name+"\n")
			require.NoError(t, os.MkdirAll(f.sys, 0o755))
			require.NoError(t, os.Symlink(filepath.Join(dir, "devices", disk, disk+number), filepath.Join(f.sys, disk+number)))
		}
	}
	put(filepath.Join(f.links, "by-label", LabelPersistent), "of sda")
	require.Equal(t, "/dev/sdb6", f.device(LabelPersistent, "persistent"))
	require.Equal(t, "/dev/sdb5", f.device(LabelState, "state"))
	f.from = "/dev/vda" // a disk that has no such partition
	require.Equal(t, filepath.Join(f.links, "by-label", LabelPersistent), f.device(LabelPersistent, "persistent"))
	f.from = ""
	require.Equal(t, filepath.Join(f.links, "by-partlabel/state"), f.device(LabelState, "state"))
}
