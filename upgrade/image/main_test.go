package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	fake "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"
)

// quick is timing for tests.
var quick = timing{stall: 30 * time.Second, backoff: time.Millisecond}

// file is one entry of a tar under construction.
type file struct {
	name, body string
	kind       byte
	link       string
	mode       int64
	pax        map[string]string
	major      int64
}

func tarOf(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{
			Name: f.name, Typeflag: f.kind, Linkname: f.link, Mode: f.mode, PAXRecords: f.pax, Devmajor: f.major,
			ModTime: time.Unix(1000, 0), Format: tar.FormatPAX,
		}
		if h.Typeflag == 0 {
			h.Typeflag, h.Size = tar.TypeReg, int64(len(f.body))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		require.NoError(t, w.WriteHeader(h))
		if h.Typeflag == tar.TypeReg {
			_, err := w.Write([]byte(f.body))
			require.NoError(t, err)
		}
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func dir(name string) file         { return file{name: name, kind: tar.TypeDir} }
func symlink(name, to string) file { return file{name: name, kind: tar.TypeSymlink, link: to} }
func hardlink(name, to string) file {
	return file{name: name, kind: tar.TypeLink, link: to}
}

func zipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

// layoutOf writes an OCI layout of the layers (uncompressed tars) and returns its folder and the digest of the manifest.
func layoutOf(t testing.TB, platform string, layers ...[]byte) (string, v1.Hash) {
	t.Helper()
	return announcedLayout(t, platform, nil, layers...)
}

// announcedLayout is a layoutOf of which the first layers announce what they take.
func announcedLayout(t testing.TB, platform string, announced []string, layers ...[]byte) (string, v1.Hash) {
	t.Helper()
	out := t.TempDir()
	w := blobWriter{filepath.Join(out, "blobs", "sha256")}
	require.NoError(t, os.MkdirAll(w.dir, 0o755))
	p, err := v1.ParsePlatform(platform)
	require.NoError(t, err)
	config := v1.ConfigFile{OS: p.OS, Architecture: p.Architecture, RootFS: v1.RootFS{Type: "layers"}}
	config.Config.Labels = map[string]string{labelVersion: "v1.2.3"}
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
	for n, l := range layers {
		b, err := w.create()
		require.NoError(t, err)
		_, err = b.Write(zipped(t, l))
		require.NoError(t, err)
		d, err := b.commit(types.OCILayer)
		require.NoError(t, err)
		if n < len(announced) {
			d.Annotations = map[string]string{annotationBytes: announced[n]}
		}
		m.Layers = append(m.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, sha256Of(l))
	}
	m.Config, err = w.json(types.OCIConfigJSON, config)
	require.NoError(t, err)
	d, err := w.json(types.OCIManifestSchema1, m)
	require.NoError(t, err)
	d.Platform = p
	require.NoError(t, writeLayout(out, d))
	return out, d.Digest
}

// open opens a reference that must be good.
func open(t testing.TB, ref string, o Options) *Image {
	t.Helper()
	i, err := tryOpen(t, ref, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, i.Close()) })
	return i
}

func tryOpen(t testing.TB, ref string, o Options) (*Image, error) {
	t.Helper()
	s, err := Parse(ref)
	require.NoError(t, err)
	if o.Platform == "" {
		o.Platform = "linux/amd64"
	}
	o.times = quick
	return s.Open(t.Context(), o)
}

// listing is a tree as text: path, mode and content or target.
func listing(t testing.TB, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	require.NoError(t, filepath.Walk(root, func(path string, st os.FileInfo, err error) error {
		require.NoError(t, err)
		name, err := filepath.Rel(root, path)
		require.NoError(t, err)
		switch {
		case name == ".":
		case st.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			require.NoError(t, err)
			all[name] = "-> " + target
		case st.IsDir():
			all[name] = "dir"
		case st.Mode().IsRegular():
			data, err := os.ReadFile(path)
			require.NoError(t, err)
			all[name] = string(data)
		default:
			all[name] = st.Mode().Type().String()
		}
		return nil
	}))
	return all
}

// site is a registry in this process; wrap may break it.
func site(t testing.TB, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	var h http.Handler = fake.New(fake.Logger(log.New(io.Discard, "", 0)))
	if wrap != nil {
		h = wrap(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// push uploads a layout to a registry: every blob, every manifest by digest, the images under tag and the signatures under
// theirs.
func push(t testing.TB, layout, host, tag string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(layout, "index.json"))
	require.NoError(t, err)
	var index v1.IndexManifest
	require.NoError(t, json.Unmarshal(raw, &index))
	put := func(url, kind string, data []byte) {
		req, err := http.NewRequest(http.MethodPut, url, bytes.NewReader(data))
		require.NoError(t, err)
		req.Header.Set("Content-Type", kind)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Less(t, resp.StatusCode, 300, url)
	}
	blobs, err := filepath.Glob(filepath.Join(layout, "blobs", "sha256", "*"))
	require.NoError(t, err)
	for _, name := range blobs {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		resp, err := http.Post("http://"+host+"/v2/os/blobs/uploads/?digest=sha256:"+filepath.Base(name), "application/octet-stream", bytes.NewReader(data))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Less(t, resp.StatusCode, 300)
	}
	for _, name := range blobs { // what an index lists
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		if kind, err := mediaType(data); err == nil && kind.IsImage() {
			put("http://"+host+"/v2/os/manifests/sha256:"+filepath.Base(name), string(kind), data)
		}
	}
	var signed v1.Hash
	for _, d := range index.Manifests {
		if !isSignature(d) {
			signed = d.Digest
		}
	}
	for _, d := range index.Manifests {
		data, err := os.ReadFile(filepath.Join(layout, "blobs", "sha256", d.Digest.Hex))
		require.NoError(t, err)
		as := tag
		if isSignature(d) {
			as = signatureTag(signed)
		}
		put("http://"+host+"/v2/os/manifests/"+as, string(d.MediaType), data)
	}
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
