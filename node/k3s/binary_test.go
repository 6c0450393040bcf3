package k3s

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const fakeBinary = "#!/bin/sh\necho k3s version v1.36.4+k3s1 '(abc)'\n"

func sha(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// finder looks on a machine that has nothing, with the answers of handler.
func finder(t *testing.T, handler http.HandlerFunc, sum string) *binaries {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return &binaries{
		source: Source{URL: server.URL + "/k3s", SHA256: sum}, dir: t.TempDir(), root: t.TempDir(),
		download: downloader{client: server.Client(), stall: stallTimeout, max: 1 << 20},
	}
}

func serve(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }
}

func TestTheImagesBinaryComesFirstThenTheConfiguredThenTheDownload(t *testing.T) {
	b := finder(t, serve(fakeBinary), strings.ToUpper(sha(fakeBinary)))
	put := func(path string) string {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(fakeBinary), 0o755))
		return path
	}
	found := func() string {
		path, err := b.find(t.Context())
		require.NoError(t, err)
		return path
	}
	require.Equal(t, filepath.Join(b.dir, "k3s-"+sha(fakeBinary)[:16]), found())
	b.download.client = nil // it is asked no more
	require.Equal(t, filepath.Join(b.dir, "k3s-"+sha(fakeBinary)[:16]), found())
	b.source.Path = put(filepath.Join(t.TempDir(), "mine"))
	require.Equal(t, b.source.Path, found())
	local := put(b.root + "/usr/local/bin/k3s")
	require.Equal(t, local, found())
	image := put(b.root + "/usr/bin/k3s")
	require.Equal(t, image, found())

	require.NoError(t, os.Chmod(image, 0o644))
	require.Equal(t, local, found(), "what cannot be run is none")
}

func TestWithoutABinaryTheErrorSaysWhereItWasLookedFor(t *testing.T) {
	b := &binaries{source: Source{Path: "/nowhere/k3s"}, root: t.TempDir()}
	_, err := b.find(t.Context())
	require.ErrorIs(t, err, ErrNoBinary)
	for _, path := range append(wellKnown, "/nowhere/k3s", "k3s.sha256") {
		require.ErrorContains(t, err, path)
	}
	b.source.URL, b.source.SHA256 = "https://user:db-secret@example/k3s", "12"
	_, err = b.find(t.Context())
	require.ErrorIs(t, err, ErrNoBinary)
	requireNoSecrets(t, err.Error())
}

func TestAFailedDownloadLeavesNothing(t *testing.T) {
	hang := func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("some"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		change  func(*testing.T, *binaries)
		says    string
	}{
		"wrong checksum": {serve("something else"), nil, "checksum is " + sha("something else")},
		"not there":      {http.NotFound, nil, "404"},
		"truncated": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte(fakeBinary))
		}, nil, "unexpected EOF"},
		"stalled":        {hang, func(_ *testing.T, b *binaries) { b.download.stall = 50 * time.Millisecond }, "nothing came for 50ms"},
		"never answered": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, func(_ *testing.T, b *binaries) { b.download.stall = 50 * time.Millisecond }, "nothing came for 50ms"},
		"too big":        {serve(fakeBinary), func(_ *testing.T, b *binaries) { b.download.max = 10 }, "more than 10 bytes"},
		"disk full":      {serve(strings.Repeat("x", 1<<20)), func(t *testing.T, b *binaries) { smallDisk(t, b.dir) }, unix.ENOSPC.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			b := finder(t, c.handler, sha(fakeBinary))
			if c.change != nil {
				c.change(t, b)
			}
			_, err := b.find(t.Context())
			require.ErrorContains(t, err, c.says)
			requireEmpty(t, b.dir)
		})
	}
}

func TestAWrongBinaryIsNotDownloadedAgainAtOnce(t *testing.T) {
	asked := 0
	b := finder(t, func(w http.ResponseWriter, _ *http.Request) {
		asked++
		_, _ = w.Write([]byte("something else"))
	}, sha(fakeBinary))
	_, first := b.find(t.Context())
	_, second := b.find(t.Context())
	require.ErrorIs(t, first, errChecksum)
	require.Equal(t, first, second)
	require.Equal(t, 1, asked)

	b.wrongUntil = time.Now()
	_, err := b.find(t.Context())
	require.ErrorIs(t, err, errChecksum)
	require.Equal(t, 2, asked)
}

func TestADownloadEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the agent ends")
	b := finder(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel(why)
		<-r.Context().Done()
	}, sha(fakeBinary))
	_, err := b.find(ctx)
	require.ErrorIs(t, err, why)
	requireEmpty(t, b.dir)
}

func TestWhatAPowerCutLeftOfADownloadIsRemoved(t *testing.T) {
	b := finder(t, serve(fakeBinary), sha(fakeBinary))
	require.NoError(t, os.WriteFile(filepath.Join(b.dir, partial+"123"), []byte("half"), 0o600))
	path, err := b.find(t.Context())
	require.NoError(t, err)
	entries, err := os.ReadDir(b.dir)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	version, err := b.version(t.Context(), path)
	require.NoError(t, err)
	require.Equal(t, "v1.36.4+k3s1", version)
}

func TestADownloadsPasswordStaysOutOfErrors(t *testing.T) {
	b := finder(t, http.NotFound, sha(fakeBinary))
	b.source.URL = strings.Replace(b.source.URL, "://", "://user:db-secret@", 1)
	_, err := b.find(t.Context())
	require.ErrorContains(t, err, "404")
	requireNoSecrets(t, err.Error())
}

func TestTheVersionIsAskedOncePerFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "k3s")
	install := func(text string) {
		// As an upgrade does it, and a program that runs is not written.
		require.NoError(t, os.WriteFile(path+".new", []byte(text), 0o755))
		require.NoError(t, os.Rename(path+".new", path))
	}
	install("#!/bin/sh\necho >> " + dir + "/asked\necho k3s version v1.36.3+k3s1 x\n")
	var b binaries
	for range 3 {
		version, err := b.version(t.Context(), path)
		require.NoError(t, err)
		require.Equal(t, "v1.36.3+k3s1", version)
	}
	requireFile(t, filepath.Join(dir, "asked"), "\n")
	install(fakeBinary)
	version, err := b.version(t.Context(), path)
	require.NoError(t, err)
	require.Equal(t, "v1.36.4+k3s1", version)

	install("#!/bin/sh\necho busybox\n")
	_, err = b.version(t.Context(), path)
	require.ErrorContains(t, err, "it is not k3s")
	install("#!/bin/sh\nexit 7\n")
	_, err = b.version(t.Context(), path)
	require.ErrorContains(t, err, "exit status 7")
}

// smallDisk mounts 64 KiB of memory on dir.
func smallDisk(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, unix.Mount("muster-test", dir, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
}

func requireEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}
