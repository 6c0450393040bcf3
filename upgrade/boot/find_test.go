package boot

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWhatIsNotFoundIsSaidInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{deadline: time.Now().Add, probe: func(string) superblock { return superblock{} }}
		start := time.Now()
		_, err := m.find(wanted{label: "NO_SUCH_LABEL"}, stateDeadline)
		require.ErrorIs(t, err, ErrNoState)
		require.ErrorContains(t, err, "NO_SUCH_LABEL, waited 30s")
		require.Equal(t, stateDeadline, time.Since(start))
	})
}

func TestADeviceThatDoesNotAnswerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		m := &machine{deadline: time.Now().Add, probe: func(string) superblock { <-end; return superblock{label: labelState} }}
		start := time.Now()
		require.Empty(t, m.superblock("/dev/dead"))
		require.Equal(t, probeDeadline, time.Since(start))
		require.Empty(t, m.superblock("/dev/dead"))
		require.Equal(t, probeDeadline, time.Since(start), "it is not asked twice")
		require.Equal(t, []string{"/dev/dead does not answer"}, m.report.Problems)
		close(end)
	})
}

// twoDisks is a machine with sda, which another machine had before, and sdb, which it was started from.
func twoDisks(t *testing.T) (*machine, map[string]superblock) {
	t.Helper()
	m := &machine{prefix: t.TempDir(), deadline: time.Now().Add}
	for _, disk := range []string{"sda", "sdb"} {
		for number, name := range map[string]string{"3": "oem", "5": "state", "6": "persistent"} {
			real := m.path("/sys/devices/" + disk + "/" + disk + number)
			require.NoError(t, os.MkdirAll(real, 0o755))
			require.NoError(t, os.WriteFile(real+"/partition", []byte(number+"\n"), 0o600))
			require.NoError(t, os.WriteFile(real+"/uevent", []byte("DEVTYPE=partition\nPARTN="+number+"\nPARTNAME="+name+"\n"), 0o600))
			require.NoError(t, os.MkdirAll(m.path(sysBlock), 0o755))
			require.NoError(t, os.Symlink(real, filepath.Join(m.path(sysBlock), disk+number)))
		}
	}
	on := map[string]superblock{}
	for disk, uuid := range map[string]string{"sda": "old", "sdb": "new"} {
		on["/dev/"+disk+"3"] = superblock{label: labelOEM, uuid: uuid + "3"}
		on["/dev/"+disk+"5"] = superblock{label: labelState, uuid: uuid + "5"}
		on["/dev/"+disk+"6"] = superblock{label: labelPersistent, uuid: uuid + "6"}
	}
	m.probe = func(device string) superblock { return on[device] }
	return m, on
}

func TestOfTwoDisksWithTheSameLabelsTheOneThatWasStartedFromIsTaken(t *testing.T) {
	m, _ := twoDisks(t)
	require.Equal(t, "/dev/sdb5", m.look(wanted{label: labelState, uuid: "new5"}))
	require.Equal(t, "/dev/sdb6", m.look(wanted{label: labelPersistent, near: "/dev/sdb5"}))
	require.Empty(t, m.look(wanted{label: labelState, uuid: "gone"}), "another disk's image is not this one's")
	require.Empty(t, m.report.Problems)
}

func TestTwoDisksThatCannotBeToldApartAreAProblem(t *testing.T) {
	m, on := twoDisks(t)
	require.Equal(t, "/dev/sda5", m.look(wanted{label: labelState}), "a command line that a person typed")
	on["/dev/sda5"] = on["/dev/sdb5"] // a copy
	require.Equal(t, "/dev/sda5", m.look(wanted{label: labelState, uuid: "new5"}))
	require.Equal(t, []string{
		"more than one disk has COS_STATE: /dev/sda5, /dev/sdb5; /dev/sda5 was taken",
		"more than one disk has COS_STATE: /dev/sda5, /dev/sdb5; /dev/sda5 was taken",
	}, m.report.Problems)
}

func TestADamagedFileSystemIsNotReplacedByThatOfAnotherDisk(t *testing.T) {
	m, on := twoDisks(t)
	delete(on, "/dev/sdb6")
	require.Equal(t, "/dev/sdb6", m.look(wanted{label: labelPersistent, near: "/dev/sdb5"}))
	require.NoError(t, os.Remove(filepath.Join(m.path(sysBlock), "sdb6")))
	require.Equal(t, "/dev/sda6", m.look(wanted{label: labelPersistent, near: "/dev/sdb5"}), "a disk for data alone")
	require.Equal(t, []string{"COS_PERSISTENT is on another disk than the image: /dev/sda6"}, m.report.Problems)
}
