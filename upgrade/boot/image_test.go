package boot

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// newImage is an image with a shell and, as the program of that name, a script.
func newImage(t *testing.T, program, script string) *machine {
	t.Helper()
	m := &machine{prefix: t.TempDir(), deadline: time.Now().Add}
	root := m.path(sysroot)
	shell, err := exec.LookPath("sh")
	require.NoError(t, err)
	libraries, err := exec.Command("ldd", shell).Output()
	require.NoError(t, err)
	files := []string{}
	for _, word := range strings.Fields(string(libraries)) {
		if filepath.IsAbs(word) {
			files = append(files, word)
		}
	}
	for _, file := range files {
		copyTo(t, file, root+file)
	}
	copyTo(t, shell, root+"/bin/sh")
	require.NoError(t, os.MkdirAll(filepath.Dir(root+program), 0o755))
	require.NoError(t, os.WriteFile(root+program, []byte("#!/bin/sh\n"+script), 0o755))
	return m
}

func copyTo(t *testing.T, source, target string) {
	t.Helper()
	data, err := os.ReadFile(source)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Dir(target), 0o755))
	require.NoError(t, os.WriteFile(target, data, 0o755))
}

func TestAStageRunsInTheImage(t *testing.T) {
	m := newImage(t, "/usr/bin/muster", `echo "$PWD $*" > /ran`)
	require.NoError(t, m.stage("rootfs"))
	ran, err := os.ReadFile(m.path(sysroot) + "/ran")
	require.NoError(t, err)
	require.Equal(t, "/ stages run rootfs\n", string(ran))
}

func TestAStageThatFailsIsAProblemOnly(t *testing.T) {
	m := newImage(t, "/usr/bin/muster", "echo why; exit 3")
	require.NoError(t, m.do(Step{Op: OpStage, Target: "initramfs", Optional: true}))
	require.Equal(t, []string{"stage: stage initramfs: run /usr/bin/muster stages run initramfs: exit status 3"}, m.report.Problems)
}

func TestAProgramThatHangsIsEndedWithItsChildren(t *testing.T) {
	m := newImage(t, "/usr/bin/muster", "read x < /fifo & read y < /fifo")
	require.NoError(t, exec.Command("mkfifo", m.path(sysroot)+"/fifo").Run())
	start := time.Now()
	_, err := m.run(200*time.Millisecond, []string{"/usr/bin/muster"})
	require.ErrorContains(t, err, "not done after 200ms")
	require.Less(t, time.Since(start), 10*time.Second)
	_, err = m.run(0, []string{"/usr/bin/muster"})
	require.ErrorContains(t, err, "not done after 0s", "too late to start it at all")
}

func TestACheckUnderstandsE2fsck(t *testing.T) {
	for code, fails := range map[string]bool{"0": false, "1": false, "2": false, "4": true, "8": true, "12": true} {
		m := newImage(t, "/sbin/e2fsck", "exit "+code)
		require.Equal(t, fails, m.check("/dev/x") != nil, code)
	}
	m := &machine{prefix: t.TempDir(), deadline: time.Now().Add}
	require.NoError(t, m.check("/dev/x"), "an image without e2fsck")
}

func TestAPanicIsAReason(t *testing.T) {
	var m machine
	require.ErrorContains(t, m.guarded(func() error { panic("broken") }), "panic: broken")
}

func TestASlotThatIsNotTheOneThatWasStartedIsRefused(t *testing.T) {
	root := t.TempDir()
	require.ErrorContains(t, sameImage(root, "aa"), "read the slot's identity")
	file := filepath.Join(root, "usr/lib/muster/image/image.json")
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, []byte("{"), 0o644))
	require.ErrorContains(t, sameImage(root, "aa"), "read the slot's identity")
	require.NoError(t, os.WriteFile(file, []byte(`{"id":"bb","version":"2"}`), 0o644))
	require.ErrorIs(t, sameImage(root, "aa"), errOtherImage)
	require.NoError(t, sameImage(root, "bb"))
}
