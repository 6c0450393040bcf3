package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/node"
)

func TestAnImageIsPackedInspectedAndChecked(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "etc"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/os-release"), []byte("IMAGE_ID=box\nIMAGE_VERSION=v7\n"), 0o644))
	layout, archive := filepath.Join(t.TempDir(), "layout"), filepath.Join(t.TempDir(), "box.tar")
	packed := muster(t, "", "image", "pack", "--root", root, "--out", layout, "--tar", archive)
	require.Equal(t, node.ExitDone, packed.code, packed.complain)

	for _, ref := range []string{"ocifile:" + layout, "ocifile:" + archive} {
		r := muster(t, "", "image", "inspect", ref, "-o", "json")
		require.Equal(t, node.ExitDone, r.code, r.complain)
		var found map[string]any
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &found))
		require.Equal(t, packed.stdout, "sha256:"+found["id"].(string)+"\n")
		require.Equal(t, "v7", found["version"])
		require.Equal(t, false, found["verified"])
		require.NotZero(t, found["bytes"])

		r = muster(t, "", "image", "check", ref)
		require.Equal(t, node.ExitFailed, r.code)
		require.Contains(t, r.stdout, "/usr/bin/muster: is missing\n")
		require.NotContains(t, r.stdout, "os-release")
	}
	r := muster(t, "", "image", "check", "dir:"+root, "-o", "json")
	require.Equal(t, node.ExitFailed, r.code)
	var missing []map[string]string
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &missing))
	require.Equal(t, "/boot/vmlinuz", missing[0]["path"])
}

func TestImageCommandsNameWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no form":        {[]string{"check", "box:v7"}, node.ExitUsage, "use oci:NAME"},
		"no reference":   {[]string{"inspect", "oci:UPPER/x"}, node.ExitUsage, "UPPER"},
		"nothing there":  {[]string{"inspect", "dir:/nowhere"}, node.ExitFailed, "no such image"},
		"no key":         {[]string{"inspect", "dir:/", "--key", "/nowhere"}, node.ExitUsage, "read signature key"},
		"no platform":    {[]string{"inspect", "dir:/nowhere", "--platform", "amd64"}, node.ExitUsage, "linux/arm64"},
		"no tree":        {[]string{"pack", "--out", "x"}, node.ExitUsage, "--root and --out"},
		"no such tree":   {[]string{"pack", "--root", "/nowhere", "--out", t.TempDir()}, node.ExitFailed, "/nowhere"},
		"an odd version": {[]string{"check", "dir:/", "-o", "yaml"}, node.ExitUsage, "text or json"},
	} {
		t.Run(name, func(t *testing.T) {
			r := muster(t, "", append([]string{"image"}, c.args...)...)
			require.Equal(t, c.code, r.code, r.complain)
			require.Contains(t, r.complain, c.want)
			require.Empty(t, r.stdout)
		})
	}
}
