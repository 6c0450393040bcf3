package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/deploy"
	"github.com/muster-edge/muster/node"
	"github.com/muster-edge/muster/upgrade/image"
)

func TestAMistakeInDeployOrInstallChangesNothing(t *testing.T) {
	dir := t.TempDir()
	bad, good, out := filepath.Join(dir, "bad.yaml"), filepath.Join(dir, "good.yaml"), filepath.Join(dir, "disk.raw")
	require.NoError(t, os.WriteFile(bad, []byte("p2p: {}\n"), 0o600))
	require.NoError(t, os.WriteFile(good, []byte("#cloud-config\nhostname: n1\n"), 0o600))
	for _, args := range [][]string{
		{"deploy", "disk"},
		{"deploy", "disk", "--image", "dir:" + dir},
		{"deploy", "disk", "--image", "dir:" + dir, "--out", out, "--config", bad},
		{"deploy", "disk", "--image", "dir:" + dir, "--out", out, "--config", filepath.Join(dir, "none")},
		{"deploy", "disk", "--image", "dir:" + dir, "--out", out, "--size", "8Q"},
		{"deploy", "disk", "--image", "dir:" + dir, "--out", out, "--firmware", "coreboot"},
		{"deploy", "disk", "--image", "ftp:x", "--out", out, "--config", good},
		{"deploy", "disk", "--image", "dir:" + dir, "--out", out, "--key", filepath.Join(dir, "none")},
		{"install"},
		{"install", "--device", "/dev/null", "--source", "dir:" + dir},
		{"install", "--device", good, "--source", "dir:" + dir, "--yes"},
	} {
		require.Equal(t, node.ExitUsage, run(t.Context(), args), args)
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2)
}

func TestTheNameOfTheDiskMustBeTyped(t *testing.T) {
	for answer, want := range map[string]bool{"/dev/sda\n": true, "/dev/sda": true, "": false, "y\n": false, "yes\n": false, "/dev/sdb\n": false} {
		got, err := typed(t.Context(), strings.NewReader(answer), &bytes.Buffer{}, "/dev/sda")
		require.NoError(t, err)
		require.Equal(t, want, got, "%q", answer)
	}
}

func TestAnInterruptEndsAQuestion(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	silent, speak := io.Pipe()
	t.Cleanup(func() { require.NoError(t, speak.Close()) })
	_, err := typed(ctx, silent, &bytes.Buffer{}, "reset")
	require.ErrorIs(t, err, context.Canceled)
}

func TestThePlanSaysWhatIsLost(t *testing.T) {
	var out bytes.Buffer
	printPlan(&out, deploy.Plan{
		Device:   deploy.Device{Path: "/dev/sda", Model: "ACME", Size: 8 << 30, Holds: []string{`partition "home", 100 MiB`}},
		Identity: image.Identity{ID: strings.Repeat("5e", 32), Version: "v1"}, Partitions: []deploy.Partition{{Name: "oem", Label: "COS_OEM", Size: 64 << 20}},
	})
	require.Equal(t, `/dev/sda: 8.00 GiB, ACME
  WILL BE LOST: partition "home", 100 MiB
gets image v1 (sha256:5e5e5e5e5e5e):
  1 oem         COS_OEM         64.0 MiB
`, out.String())
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "8G": 8 << 30, "6000M": 6000 << 20, "4096": 4096, "2T": 2 << 40} {
		got, err := parseSize(text)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, text := range []string{"G", "-1G", "0", "1.5G", "8GB", "9999999T", "+8G"} {
		_, err := parseSize(text)
		require.Error(t, err, text)
	}
}
