package k3s

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAManifestIsAppliedOnlyIfItIsTheOneMeant(t *testing.T) {
	const text = "kind: ConfigMap\n"
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = w.Write([]byte(text))
	}))
	defer server.Close()
	sum := sha256.Sum256([]byte(text))
	d := newDriver(Options{Manager: ManagerDirect, RunDir: t.TempDir(), LogDir: t.TempDir(), DownloadDir: t.TempDir(), Root: t.TempDir()}, defaultDirectTiming)
	defer func() { require.NoError(t, d.Close()) }()
	pinned := server.URL + "/kubevip.yaml#sha256=" + hex.EncodeToString(sum[:])

	v := testKubeVIP()
	v.ManifestURL = pinned
	require.NoError(t, d.deployKubeVIP(t.Context(), v))
	require.Equal(t, "ConfigMap", objects(t, d.opts.Root+manifestDir+"/kubevipmanifest.yaml")[0]["kind"])
	require.NoError(t, d.deployKubeVIP(t.Context(), v))
	require.EqualValues(t, 1, asked.Load(), "what was downloaded is kept")

	_, err := d.pinnedManifest(t.Context(), server.URL+"#sha256="+strings.Repeat("0", 64))
	require.ErrorIs(t, err, errChecksum)
	_, err = d.pinnedManifest(t.Context(), server.URL)
	require.ErrorContains(t, err, "64 hexadecimal digits")
	server.Close()
	_, err = d.pinnedManifest(t.Context(), strings.Replace(server.URL, "http://", "http://user:secret@", 1)+"/?key=secret#sha256="+strings.Repeat("0", 64))
	require.Error(t, err)
	require.NotContains(t, err.Error(), "secret")
}
