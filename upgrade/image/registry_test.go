package image

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// breaking is a registry whose answers to GET of a blob go through answer; false leaves the answer to the registry.
func breaking(answer func(w http.ResponseWriter, r *http.Request, next http.Handler) bool) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256:") && answer(w, r, next) {
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// noise does not compress, so that blobs are as large as they look.
func noise(n int) string {
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(digestOf([]byte(b.String()[max(0, b.Len()-64):])))
	}
	return b.String()[:n]
}

// recorded keeps an answer's body back.
func recorded(next http.Handler, r *http.Request) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, r)
	return rec
}

// cut sends the first n bytes of an answer that announced all of them and breaks the connection.
func cut(w http.ResponseWriter, r *http.Request, next http.Handler, n int) {
	rec := recorded(next, r)
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes()[:min(n, rec.Body.Len())])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

func TestAnImageComesOutOfARegistryAndStaysInTheCache(t *testing.T) {
	layout, digest := layoutOf(t, "linux/amd64", tarOf(t, file{name: "x", body: "1"}), tarOf(t, file{name: "y", body: "2"}))
	var blobs atomic.Int32
	var gone atomic.Bool
	host := site(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if gone.Load() {
				panic(http.ErrAbortHandler)
			}
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				blobs.Add(1)
			}
			next.ServeHTTP(w, r)
		})
	})
	push(t, layout, host, "v1")
	cache := t.TempDir()
	var told []Progress
	i := open(t, "oci:"+host+"/os:v1", Options{Insecure: true, Cache: cache, Progress: func(p Progress) { told = append(told, p) }})
	require.Equal(t, Identity{ID: digest.Hex, Version: "v1.2.3", Platform: "linux/amd64"}, i.Identity())
	require.EqualValues(t, 1, blobs.Load(), "layers are not pulled to be looked at")
	require.NoError(t, i.Pull(t.Context()))
	require.EqualValues(t, 2*block, i.Bytes())
	require.Equal(t, "read through", told[len(told)-1].Step)
	last := told[len(told)-2]
	require.Equal(t, "pull", last.Step)
	require.Equal(t, last.Total, last.Done)

	gone.Store(true)
	i = open(t, "oci:"+host+"/os@"+digest.String(), Options{Insecure: true, Cache: cache})
	to := t.TempDir()
	require.NoError(t, i.Unpack(t.Context(), to, nil), "what a digest names needs no registry once it was pulled")
	require.Equal(t, map[string]string{"x": "1", "y": "2"}, listing(t, to))
	require.EqualValues(t, 3, blobs.Load())
	require.Empty(t, listing(t, filepath.Join(cache, "partial")))
}

func TestACutPullIsContinued(t *testing.T) {
	body := noise(200 << 10)
	layout, _ := layoutOf(t, "linux/amd64", tarOf(t, file{name: "x", body: body}))
	var mu sync.Mutex
	var ranges []string
	down := true
	host := site(t, breaking(func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		rec := recorded(next, r)
		mu.Lock()
		defer mu.Unlock()
		if rec.Body.Len() < 1000 { // the configuration
			return false
		}
		ranges = append(ranges, r.Header.Get("Range"))
		if down {
			cut(w, r, next, 20<<10)
		}
		return false
	}))
	push(t, layout, host, "v1")
	cache := t.TempDir()
	o := Options{Insecure: true, Cache: cache}
	to := filepath.Join(t.TempDir(), "tree")
	err := open(t, "oci:"+host+"/os:v1", o).Unpack(t.Context(), to, nil)
	require.ErrorIs(t, err, ErrUnreachable)
	require.ErrorContains(t, err, host)
	require.NoDirExists(t, to)
	require.Len(t, ranges, maxTries, "tries are bounded")
	require.Equal(t, "", ranges[0])
	require.Regexp(t, `^bytes=20480-`, ranges[1])

	mu.Lock()
	down, ranges = false, nil
	mu.Unlock()
	require.NoError(t, open(t, "oci:"+host+"/os:v1", o).Unpack(t.Context(), to, nil))
	require.Equal(t, body, listing(t, to)["x"])
	require.Len(t, ranges, 1)
	require.Regexp(t, `^bytes=81920-`, ranges[0], "the next run goes on where this one ended")
}

func TestWhatARegistryDoesWrongHasAName(t *testing.T) {
	layer := tarOf(t, file{name: "x", body: noise(100 << 10)})
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request, next http.Handler) bool
		want   error
		asked  int // how often
	}{
		"other content": {func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			data := recorded(next, r).Body.Bytes()
			data[len(data)/2] ^= 1
			_, _ = w.Write(data)
			return true
		}, ErrDigest, 1},
		"more content": {func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			_, _ = w.Write(append(recorded(next, r).Body.Bytes(), 'x'))
			return true
		}, ErrDigest, 1},
		"half of it": {func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			data := recorded(next, r).Body.Bytes()
			_, _ = w.Write(data[:len(data)/2])
			return true
		}, ErrTruncated, 1},
		"no blob":       {func(w http.ResponseWriter, _ *http.Request, _ http.Handler) bool { w.WriteHeader(404); return true }, ErrNotFound, 1},
		"a closed door": {func(w http.ResponseWriter, _ *http.Request, _ http.Handler) bool { w.WriteHeader(403); return true }, ErrDenied, 1},
		"an illness":    {func(w http.ResponseWriter, _ *http.Request, _ http.Handler) bool { w.WriteHeader(503); return true }, ErrUnreachable, maxTries},
		"silence": {func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			w.Header().Set("Content-Length", "1000")
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return true
		}, ErrUnreachable, maxTries},
		"a redirect to nowhere": {func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			http.Redirect(w, r, "http://127.0.0.1:1/x", http.StatusTemporaryRedirect)
			return true
		}, ErrUnreachable, maxTries},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			layout, _ := layoutOf(t, "linux/amd64", layer)
			var asked atomic.Int32
			host := site(t, breaking(func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
				if recorded(next, r).Body.Len() < 1000 {
					return false
				}
				asked.Add(1)
				return c.answer(w, r, next)
			}))
			push(t, layout, host, "v1")
			cache, to := t.TempDir(), filepath.Join(t.TempDir(), "tree")
			s, err := Parse("oci:" + host + "/os:v1")
			require.NoError(t, err)
			times := quick
			if name == "silence" {
				times.stall = 2 * time.Second
			}
			i, err := s.Open(t.Context(), Options{Platform: "linux/amd64", Insecure: true, Cache: cache, times: times})
			require.NoError(t, err)
			err = i.Unpack(t.Context(), to, nil)
			require.ErrorIs(t, err, c.want)
			require.EqualValues(t, c.asked, asked.Load())
			require.NoDirExists(t, to)
			for name := range listing(t, filepath.Join(cache, "blobs", "sha256")) {
				data, err := os.ReadFile(filepath.Join(cache, "blobs", "sha256", name))
				require.NoError(t, err)
				require.Equal(t, name, digestOf(data), "only what was verified is in the cache")
			}
		})
	}
}

func TestAPartThatRottedIsPulledAnew(t *testing.T) {
	layout, _ := layoutOf(t, "linux/amd64", tarOf(t, file{name: "x", body: noise(50 << 10)}))
	host := site(t, nil)
	push(t, layout, host, "v1")
	o := Options{Insecure: true, Cache: t.TempDir()}
	i := open(t, "oci:"+host+"/os:v1", o)
	digest := i.layers[0].blob.Digest.Hex
	require.NoError(t, os.WriteFile(filepath.Join(o.Cache, "partial", digest), []byte("what a power cut left"), 0o600))
	require.NoError(t, i.Pull(t.Context()))

	// a whole blob that rotted
	path := filepath.Join(o.Cache, "blobs", "sha256", digest)
	require.NoError(t, os.WriteFile(path, []byte("rot"), 0o600))
	require.NoError(t, open(t, "oci:"+host+"/os:v1", o).Unpack(t.Context(), t.TempDir(), nil))
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, digest, digestOf(data))
}

func TestMirrorsAreAskedFirstAndMayFail(t *testing.T) {
	layout, digest := layoutOf(t, "linux/amd64", tarOf(t, file{name: "x", body: noise(50 << 10)}))
	home := site(t, nil)
	push(t, layout, home, "v1")
	var served atomic.Int32
	mirror := site(t, breaking(func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		if served.Add(1); recorded(next, r).Body.Len() > 1000 {
			cut(w, r, next, 1000)
		}
		return false
	}))
	push(t, layout, mirror, "v1")
	i := open(t, "oci:"+home+"/os:v1", Options{Insecure: true, Mirrors: []string{"127.0.0.1:1", mirror}})
	require.Equal(t, digest.Hex, i.Identity().ID)
	require.NoError(t, i.Unpack(t.Context(), t.TempDir(), nil))
	require.EqualValues(t, 2, served.Load())
}

func TestPlainHTTPIsSpokenOnlyWhenAllowed(t *testing.T) {
	layout, _ := layoutOf(t, "linux/amd64", tarOf(t, file{name: "x", body: "1"}))
	host := site(t, nil)
	push(t, layout, host, "v1")
	_, err := tryOpen(t, "oci:"+host+"/os:v1", Options{})
	require.Error(t, err)
	_, err = tryOpen(t, "oci:"+host+"/os:v2", Options{Insecure: true})
	require.ErrorIs(t, err, ErrNotFound)
}

func TestPullingEndsWithItsContext(t *testing.T) {
	layout, _ := layoutOf(t, "linux/amd64", tarOf(t, file{name: "x", body: noise(50 << 10)}))
	ctx, cancel := context.WithCancel(t.Context())
	host := site(t, breaking(func(_ http.ResponseWriter, r *http.Request, next http.Handler) bool {
		if recorded(next, r).Body.Len() < 1000 {
			return false
		}
		cancel()
		<-r.Context().Done()
		return true
	}))
	push(t, layout, host, "v1")
	i := open(t, "oci:"+host+"/os:v1", Options{Insecure: true})
	require.ErrorIs(t, i.Pull(ctx), context.Canceled)
	require.NoError(t, i.Close())
	require.NoDirExists(t, i.blobs.(*registry).cache.dir)
}

func TestTwoDoNotPullIntoOneCache(t *testing.T) {
	layout, _ := layoutOf(t, "linux/amd64", tarOf(t, file{name: "x", body: "1"}))
	host := site(t, nil)
	push(t, layout, host, "v1")
	o := Options{Insecure: true, Cache: t.TempDir()}
	i := open(t, "oci:"+host+"/os:v1", o)
	other, err := openCache(o.Cache)
	require.NoError(t, err)
	unlock, err := other.lock()
	require.NoError(t, err)
	require.ErrorContains(t, i.Pull(t.Context()), "another process is pulling")
	unlock()
	require.NoError(t, i.Pull(t.Context()))
}

func TestAWrongPlatformNamesWhatIsOffered(t *testing.T) {
	layout, _ := layoutOf(t, "linux/arm64", tarOf(t, file{name: "x", body: "1"}))
	host := site(t, nil)
	push(t, layout, host, "v1")
	for _, ref := range []string{"oci:" + host + "/os:v1", "ocifile:" + layout} {
		_, err := tryOpen(t, ref, Options{Insecure: true})
		require.ErrorIs(t, err, ErrPlatform)
		require.ErrorContains(t, err, "wanted is linux/amd64, offered is linux/arm64")
		require.Equal(t, "linux/arm64", open(t, ref, Options{Insecure: true, Platform: "linux/arm64"}).Identity().Platform)
	}
}

func TestARegistryThatIsOffIsOutOfReachAndDidNotRefuse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	s, err := Parse("oci:" + l.Addr().String() + "/os:v1")
	require.NoError(t, err)
	_, err = s.Open(t.Context(), Options{Platform: "linux/amd64", Cache: t.TempDir(), times: quick})
	require.ErrorIs(t, err, ErrUnreachable)
	require.NotErrorIs(t, err, ErrDenied)

	// One that speaks no TLS is another matter.
	s, err = Parse("oci:" + site(t, nil) + "/os:v1")
	require.NoError(t, err)
	_, err = s.Open(t.Context(), Options{Platform: "linux/amd64", Cache: t.TempDir(), times: quick})
	require.ErrorIs(t, err, ErrDenied)
	require.ErrorContains(t, err, "no TLS")
}
