package boot

import (
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestADryRunPrintsThePlan(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/custom-layout.env", []byte("CUSTOM_BIND_MOUNTS=/var/lib/mine\n"), 0o644))
	line := "root=LABEL=COS_STATE cos-img/filename=/cOS/active.img"
	var out, errs bytes.Buffer
	require.Zero(t, DryRun([]string{"--dry-run", "--cmdline", line, "--layout", dir}, &out, &errs))
	require.Empty(t, errs.String())
	require.Contains(t, out.String(), "mount ext4 LABEL=COS_STATE /run/initramfs/cos-state [ro]\n")
	require.Contains(t, out.String(), "bind /sysroot/usr/local/.state/var-lib-mine.bind /sysroot/var/lib/mine (optional)\n")
}

func TestMusterInitDoesNothingOutsideAnInitramfs(t *testing.T) {
	for _, args := range [][]string{nil, {"--dry-run", "more"}, {"--no-such"}} {
		var out, errs bytes.Buffer
		require.Equal(t, 2, DryRun(args, &out, &errs))
		require.Empty(t, out.String())
		require.NotEmpty(t, errs.String())
	}
	var out, errs bytes.Buffer
	require.Equal(t, 1, DryRun([]string{"--dry-run", "--cmdline", "quiet"}, &out, &errs))
	require.Contains(t, errs.String(), "bad kernel command line")
}
