package scenario

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/e2e/vm"
)

// registryPort is where the registry of a test listens, on vm.Host.
const registryPort = 5000

// versionLabel is what an image says its version is.
const versionLabel = "org.opencontainers.image.version"

// bytesAnnotation is what a layer says its files take.
const bytesAnnotation = "io.github.muster-edge.bytes"

// images is one registry for all tests: what is pushed is pushed once.
var images = struct {
	sync.Mutex
	handler http.Handler
	pushed  map[string]pushed
	spoiled sync.Map // by spoiled: func(http.ResponseWriter, []byte) that answers in place of the registry
}{handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))), pushed: map[string]pushed{}}

// spoiled is a blob as the machines of one network get it.
type spoiled struct {
	network *vm.Network
	digest  string
}

// pushed is an image in the registry.
type pushed struct {
	repository string // with the tag
	id         string // as muster names it in its own files
}

// at is the image as it is named when the registry listens there.
func (p pushed) at(listens string) string { return "oci:" + listens + "/" + p.repository }

// ref is the image as a guest names it.
func (p pushed) ref() string { return p.at(netip.AddrPortFrom(vm.Host, registryPort).String()) }

// digest is what people and scripts read.
func (p pushed) digest() string { return "sha256:" + p.id }

// serveRegistry lets the machines of a network pull.
func serveRegistry(t testing.TB, n *vm.Network) {
	t.Helper()
	l, err := n.Listen(t.Context(), registryPort)
	require.NoError(t, err)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, is := images.spoiled.Load(spoiled{n, path.Base(r.URL.Path)})
		if !is || r.Method != http.MethodGet {
			images.handler.ServeHTTP(w, r)
			return
		}
		held := httptest.NewRecorder()
		images.handler.ServeHTTP(held, r)
		answer.(func(http.ResponseWriter, []byte))(w, held.Body.Bytes())
	})}
	done := make(chan error)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close() // the machines are off
		<-done
	})
}

// push derives an image from v1: another version, and what the variants of deploy/os do to a tree, in one more layer.
func (s system) push(t testing.TB, version string, variants ...string) pushed {
	t.Helper()
	images.Lock()
	defer images.Unlock()
	tag := s.name + ":" + version
	if p, ok := images.pushed[tag]; ok {
		return p
	}
	b := s.image(t)
	img := image(t, b.layout)
	// Made once: it is read for its digest and again to be pushed, and its files have the time at which they were made.
	content := changes(t, b.root, version, variants)
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
	require.NoError(t, err)
	// Announced as `muster image pack` does: a tar is larger than what is in it, and the rest is for blocks.
	takes := strconv.Itoa(len(content) + 1<<20)
	img, err = mutate.Append(img, mutate.Addendum{Layer: layer, Annotations: map[string]string{bytesAnnotation: takes}})
	require.NoError(t, err)
	config, err := img.ConfigFile()
	require.NoError(t, err)
	config = config.DeepCopy()
	config.Config.Labels[versionLabel] = version
	img, err = mutate.ConfigFile(img, config)
	require.NoError(t, err)
	digest, err := img.Digest()
	require.NoError(t, err)

	server := httptest.NewServer(images.handler)
	defer server.Close()
	ref, err := name.NewTag(server.Listener.Addr().String()+"/"+tag, name.Insecure)
	require.NoError(t, err)
	require.NoError(t, remote.Write(ref, img, remote.WithContext(t.Context())))
	p := pushed{repository: tag, id: digest.Hex}
	images.pushed[tag] = p
	return p
}

func image(t testing.TB, path string) v1.Image {
	t.Helper()
	index, err := layout.ImageIndexFromPath(path)
	require.NoError(t, err)
	manifest, err := index.IndexManifest()
	require.NoError(t, err)
	require.Len(t, manifest.Manifests, 1)
	img, err := index.Image(manifest.Manifests[0].Digest)
	require.NoError(t, err)
	return img
}

// changes returns what the variants change in a tree, as a layer: they run over an overlay of it.
func changes(t testing.TB, root, version string, variants []string) []byte {
	t.Helper()
	dir, err := os.MkdirTemp(work, "layer-")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"upper", "work", "root"} {
		require.NoError(t, os.Mkdir(in(d), 0o755))
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", root, in("upper"), in("work"))
	require.NoError(t, unix.Mount("overlay", in("root"), "overlay", 0, options))
	defer func() { _ = unix.Unmount(in("root"), unix.MNT_DETACH) }() // again, when all went well
	release := in("root/usr/lib/os-release")
	text, err := os.ReadFile(release)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(release, []byte(strings.Replace(string(text), "IMAGE_VERSION=v1\n", "IMAGE_VERSION="+version+"\n", 1)), 0o644))
	for _, v := range variants {
		out, err := exec.Command(top+"/deploy/os/variants/"+v, in("root")).CombinedOutput()
		require.NoError(t, err, "variant %s: %s", v, out)
	}
	require.NoError(t, unix.Unmount(in("root"), 0))
	return layerOf(t, in("upper"))
}

// layerOf packs the upper folder of an overlay; its whiteouts are character devices 0:0.
func layerOf(t testing.TB, upper string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	require.NoError(t, filepath.WalkDir(upper, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == upper {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(upper, path)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0 {
			return w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: filepath.Join(filepath.Dir(rel), ".wh."+filepath.Base(rel))})
		}
		target := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(info, target)
		if err != nil {
			return err
		}
		h.Name, h.Uname, h.Gname = rel, "", ""
		if err := w.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err == nil {
			_, err = w.Write(content)
		}
		return err
	}))
	require.NoError(t, w.Close())
	return out.Bytes()
}
