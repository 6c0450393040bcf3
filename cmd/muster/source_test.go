package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/node"
)

func TestReferencesDisksAndChoicesAreCompleted(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "tree"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tree.tar"), nil, 0o600))
	for _, flags := range [][]string{{"upgrade", "--source"}, {"install", "--source"}, {"deploy", "disk", "--image"}, {"image", "check"}, {"image", "inspect"}} {
		complete := func(text string) []string {
			lines := strings.Split(muster(t, "", append(append([]string{"__complete"}, flags...), text)...).stdout, "\n")
			return lines[:len(lines)-2] // the last says how to go on
		}
		require.Equal(t, schemes, complete(""), flags)
		require.Equal(t, schemes[:2], complete("oc"), flags)
		require.Empty(t, complete("oci:registry.example/"), flags)
		require.Equal(t, []string{"dir:" + dir + "/tree/"}, complete("dir:"+dir+"/t"), flags)
		require.Equal(t, []string{"file:" + dir + "/tree/", "file:" + dir + "/tree.tar"}, complete("file:"+dir+"/t"), flags)
	}
	require.Contains(t, muster(t, "", "__complete", "install", "--firmware", "").stdout, "uefi\n")
	require.Contains(t, muster(t, "", "__complete", "install", "--platform", "").stdout, "linux/arm64\n")
	require.Contains(t, muster(t, "", "__complete", "install", "--device", "").stdout, ":4\n", "disks, not files")
}

func TestTheKeyOfTheCloudConfigCountsAsKairosSays(t *testing.T) {
	pem, err := os.ReadFile(cosigned + "ec.pub")
	require.NoError(t, err)
	file, err := filepath.Abs(cosigned + "ec.pub")
	require.NoError(t, err)
	inline := "cosign-key: |\n  " + strings.ReplaceAll(strings.TrimSpace(string(pem)), "\n", "\n  ") + "\n"
	for name, c := range map[string]struct {
		text   string
		signed bool   // a signature is demanded
		want   string // or what is wrong
	}{
		"nothing":              {"", false, ""},
		"a file":               {"cosign: true\ncosign-key: " + file + "\n", true, ""},
		"the key itself":       {"cosign: true\n" + inline, true, ""},
		"a key is enough":      {inline, true, ""},
		"switched off":         {"cosign: false\n" + inline, false, ""},
		"no such file":         {"cosign-key: /nowhere\n", false, "--key FILE names another"},
		"a service's":          {"cosign-key: k8s://ns/key\n", false, "a file on this machine, or the key itself"},
		"keyless":              {"cosign: true\n", false, "names no cosign-key"},
		"another kind of file": {"cosign-key: /etc/hosts\n", false, "cosign.pub"},
		"a wrong type":         {"cosign: [1]\n", false, "decode block cosign"},
	} {
		t.Run(name, func(t *testing.T) {
			c2 := newRootCommand()
			c2.SetContext(t.Context())
			p, err := policyOfText(c2, []byte("#cloud-config\nhostname: box\n"+c.text), true)
			if c.want != "" {
				require.ErrorContains(t, err, c.want)
				var exit *node.ExitError
				require.ErrorAs(t, err, &exit)
				require.Equal(t, node.ExitUsage, exit.Code)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.signed, p.key != nil)
			if c.signed {
				require.Equal(t, strings.TrimSpace(string(pem)), strings.TrimSpace(string(p.key)))
			}
		})
	}
}

func TestOtherNamesOfTheSourceAreReadToo(t *testing.T) {
	c := newRootCommand()
	c.SetContext(t.Context())
	p, err := policyOfText(c, []byte("#cloud-config\nupgrade:\n  allow-insecure-registries: true\n  system: {uri: 'dir:/a'}\n  recovery-system: {source: 'dir:/b'}\n"), true)
	require.NoError(t, err)
	require.Equal(t, imagePolicy{source: "dir:/a", recovery: "dir:/b", insecure: true}, p)
}

func TestADiskIsMadeOfASignedImageOnlyWhenItsConfigurationNamesAKey(t *testing.T) {
	key, err := filepath.Abs(cosigned + "ec.pub")
	require.NoError(t, err)
	out := filepath.Join(t.TempDir(), "disk.raw")
	layout, _ := packed(t, "v1")
	r := muster(t, "", "deploy", "disk", "--image", "ocifile:"+layout, "--out", out, "--config", write(t, "#cloud-config\ncosign-key: "+key+"\n"))
	require.Equal(t, node.ExitRefused, r.code, r.complain)
	require.Contains(t, r.complain, "not signed")
	require.NoFileExists(t, out)
}
