package k3s

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

func testKubeVIP() *KubeVIP {
	return &KubeVIP{Address: netip.MustParseAddr("192.168.1.100"), Interface: "eth0", Image: "ghcr.io/kube-vip/kube-vip", Version: "v1.2.3"}
}

// objects are the YAML documents of a file, which the API server must be able to read.
func objects(t *testing.T, path string) []map[string]any {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var all []map[string]any
	for doc := range strings.SplitSeq(string(text), "\n---\n") {
		var o map[string]any
		require.NoError(t, yaml.Unmarshal([]byte(doc), &o), "%s", text)
		all = append(all, o)
	}
	return all
}

func container(t *testing.T, spec any) (image string, env map[string]any) {
	t.Helper()
	c := spec.(map[string]any)["containers"].([]any)[0].(map[string]any)
	env = map[string]any{}
	for _, e := range c["env"].([]any) {
		e := e.(map[string]any)
		env[e["name"].(string)] = e["value"]
	}
	return c["image"].(string), env
}

func TestKubeVIPIsDeployedAsKairosDoes(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, writeKubeVIP(root, testKubeVIP(), nil))
	rights := objects(t, root+manifestDir+"/kubevipmanifest.yaml")
	require.Len(t, rights, 3)
	set := objects(t, root+manifestDir+"/kubevip.yaml")[0]
	require.Equal(t, "DaemonSet", set["kind"])
	image, env := container(t, set["spec"].(map[string]any)["template"].(map[string]any)["spec"])
	require.Equal(t, "ghcr.io/kube-vip/kube-vip:v1.2.3", image)
	for name, value := range map[string]string{
		"address": "192.168.1.100", "vip_interface": "eth0", "vip_arp": "true", "cp_enable": "true", "vip_leaderelection": "true",
		"port": "6443", "prometheus_server": ":2112", "vip_subnet": "32",
	} {
		require.Equal(t, value, env[name], name)
	}
	require.NoFileExists(t, root+podDir+"/kubevip.yaml")

	v := testKubeVIP()
	v.StaticPod, v.Interface = true, ""
	require.NoError(t, writeKubeVIP(root, v, []byte("kind: ConfigMap\n")))
	require.NoFileExists(t, root+manifestDir+"/kubevip.yaml")
	pod := objects(t, root+podDir+"/kubevip.yaml")[0]
	require.Equal(t, "Pod", pod["kind"])
	_, env = container(t, pod["spec"])
	require.NotContains(t, env, "vip_interface")
	require.Equal(t, "ConfigMap", objects(t, root+manifestDir+"/kubevipmanifest.yaml")[0]["kind"])

	other := root + manifestDir + "/mine.yaml"
	require.NoError(t, os.WriteFile(other, nil, 0o600))
	require.NoError(t, writeKubeVIP(root, nil, nil))
	left, err := filepath.Glob(root + dataDir + "/*/*/*.yaml")
	require.NoError(t, err)
	require.Equal(t, []string{other}, left, "what is not ours stays")
}
