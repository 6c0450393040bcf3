package scenario

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// An image without K3s: the node says so, refuses a binary that is not the one
// named, and runs the one that is.
func TestNodeDownloadsK3sByChecksum(t *testing.T) {
	t.Parallel()
	config := newConfig(t)
	config.MinimumNodes = 1
	s := site(t, 1, config, withoutK3sBinary)
	s.waitWhy(soonTime, "n1", "k3s.url")

	url, served := s.serveK3s()
	config.K3s = map[string]any{"url": url, "sha256": strings.Repeat("0", 64)}
	require.NoError(t, s.Configure(t.Context(), "n1", config.yaml(t)))
	require.NoError(t, s.Restart(t.Context()))
	s.waitWhy(soonTime, "n1", "checksum")
	require.Equal(t, int64(1), served.Load(), "a wrong binary is not downloaded over and over")
	require.Empty(t, s.largeFiles("n1"), "a binary with the wrong checksum leaves nothing")

	config.K3s["sha256"] = checksum(t, binaries.k3s)
	require.NoError(t, s.Configure(t.Context(), "n1", config.yaml(t)))
	require.NoError(t, s.Restart(t.Context()))
	s.waitReady(readyTime)
	s.waitKubeReady(readyTime)
	require.Len(t, s.largeFiles("n1"), 1)

	before := served.Load()
	require.NoError(t, s.Restart(t.Context()))
	s.waitReady(readyTime)
	require.Equal(t, before, served.Load(), "what is on disk is not downloaded again")
}

// serveK3s serves the binary on the lab's LAN and counts the requests.
func (s *testSite) serveK3s() (url string, served *atomic.Int64) {
	s.t.Helper()
	listener, err := s.ListenSwitch(s.t.Context(), ":0")
	require.NoError(s.t, err)
	served = new(atomic.Int64)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		http.ServeFile(w, r, binaries.k3s)
	})}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	s.t.Cleanup(func() {
		// Requests of a node that lost power would hold a graceful end open.
		_ = server.Close()
		<-done
	})
	return fmt.Sprintf("http://%s/k3s", listener.Addr()), served
}

// largeFiles is what a node keeps that is larger than anything but a binary.
// The datastore's log is left out; it is allocated ahead.
func (s *testSite) largeFiles(name string) []string {
	s.t.Helper()
	const large = 8 << 20 // bytes
	var found []string
	err := filepath.WalkDir(s.NodeDir(name), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if rel, err := filepath.Rel(s.NodeDir(name), path); err != nil || rel == "root" || entry.Name() == "etcd" {
				return filepath.SkipDir
			}
			return nil
		}
		info, err := entry.Info()
		if err == nil && info.Mode().IsRegular() && info.Size() > large {
			found = append(found, path)
		}
		return nil
	})
	require.NoError(s.t, err)
	return found
}

func checksum(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	require.NoError(t, err)
	return hex.EncodeToString(sum.Sum(nil))
}
