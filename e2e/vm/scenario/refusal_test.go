package scenario

import (
	"archive/tar"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/vm"
)

// cosignMade are images that cosign itself has signed, and the keys.
const cosignMade = top + "/upgrade/image/testdata/cosign/"

// smallImage has one layer of one file and is no operating system: what is wrong with it comes out before that.
type smallImage struct {
	architecture string // amd64 if empty
	file         string // x if empty
	content      []byte
	announced    string // how many bytes the layer says that its files take, if it does
}

// push also returns the digest of the layer.
func (s smallImage) push(t *testing.T, tag string) (pushed, v1.Hash) {
	t.Helper()
	var content bytes.Buffer
	w := tar.NewWriter(&content)
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: cmp.Or(s.file, "x"), Mode: 0o644, Size: int64(len(s.content))}))
	_, err := w.Write(s.content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content.Bytes())), nil })
	require.NoError(t, err)
	addition := mutate.Addendum{Layer: layer}
	if s.announced != "" {
		addition.Annotations = map[string]string{bytesAnnotation: s.announced}
	}
	img, err := mutate.Append(empty.Image, addition)
	require.NoError(t, err)
	config, err := img.ConfigFile()
	require.NoError(t, err)
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Config.Labels = "linux", cmp.Or(s.architecture, "amd64"), map[string]string{versionLabel: tag}
	img, err = mutate.ConfigFile(img, config)
	require.NoError(t, err)
	blob, err := layer.Digest()
	require.NoError(t, err)
	return pushTo(t, tag, func(ref name.Tag) error { return remote.Write(ref, img) }), blob
}

// pushTo pushes to a repository of its own.
func pushTo(t *testing.T, repository string, push func(name.Tag) error) pushed {
	t.Helper()
	server := httptest.NewServer(images.handler)
	defer server.Close()
	ref, err := name.NewTag(server.Listener.Addr().String()+"/"+repository+":v2", name.Insecure)
	require.NoError(t, err)
	require.NoError(t, push(ref))
	return pushed{repository: repository + ":v2"}
}

// signedImage is an image with its signature.
func signedImage(t *testing.T) pushed {
	t.Helper()
	index, err := layout.ImageIndexFromPath(cosignMade + "image")
	require.NoError(t, err)
	manifest, err := index.IndexManifest()
	require.NoError(t, err)
	return pushTo(t, "signed", func(ref name.Tag) error {
		signed := manifest.Manifests[0].Digest
		for _, d := range manifest.Manifests {
			img, err := index.Image(d.Digest)
			if err != nil {
				return err
			}
			to := ref
			if d.Digest != signed {
				to = ref.Tag(strings.Replace(signed.String(), ":", "-", 1) + ".sig")
			}
			if err := remote.Write(to, img); err != nil {
				return err
			}
		}
		return nil
	})
}

// noise does not compress.
func noise(n int) []byte {
	b, random := make([]byte, n), rand.New(rand.NewPCG(1, 1))
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

// spoil has the registry answer this machine's GET of a blob, from what it holds, by another function until it is mended.
func (m *machine) spoil(blob v1.Hash, answer func(w http.ResponseWriter, content []byte)) (mend func()) {
	key := spoiled{m.net, blob.String()}
	images.spoiled.Store(key, answer)
	mend = func() { images.spoiled.Delete(key) }
	m.t.Cleanup(mend)
	return mend
}

// An upgrade that cannot be says why, by its exit code and in words, and leaves the slots as they are.
func TestAnUpgradeThatCannotBeSaysWhyAndTheMachineStaysAsItIs(t *testing.T) {
	parallel(t)
	v2 := bare.push(t, "v2")
	m := formed(t, vm.Options{})
	const slots = "ls -i --full-time /run/initramfs/cos-state/cOS; cat /oem/grubenv"
	before, listing, boots := m.state(), m.sh(slots), m.Boots()
	refused := func(name, command string, code int, pattern string) {
		t.Run(name, func(t *testing.T) {
			out, err := m.try(command)
			var exit *vm.ExitError
			require.ErrorAs(t, err, &exit, "%s", out)
			t.Logf("exit code %d: %s", exit.Code, exit.Output)
			require.Equal(t, code, exit.Code, exit.Output)
			require.Regexp(t, pattern, exit.Output)
			require.Equal(t, before, m.state())
			require.Equal(t, listing, m.sh(slots))
		})
	}

	arm, _ := smallImage{architecture: "arm64"}.push(t, "arm")
	refused("wrong architecture", upgradeCommand(arm), 1, "wrong platform.*linux/amd64.*linux/arm64")
	truncated, blob := smallImage{content: noise(100 << 10)}.push(t, "truncated")
	m.spoil(blob, func(w http.ResponseWriter, content []byte) { _, _ = w.Write(content[:len(content)/2]) })
	refused("truncated blob", upgradeCommand(truncated), 1, "truncated")
	changed, blob := smallImage{content: noise(110 << 10)}.push(t, "changed")
	m.spoil(blob, func(w http.ResponseWriter, content []byte) {
		content[len(content)/2] ^= 1
		_, _ = w.Write(content)
	})
	refused("wrong digest", upgradeCommand(changed), 1, "does not match its digest")
	escape, _ := smallImage{file: "../../../../etc/escaped", content: []byte("x")}.push(t, "escape")
	refused("path traversal", upgradeCommand(escape), 1, "unsafe path")

	key, err := os.ReadFile(cosignMade + "other.pub")
	require.NoError(t, err)
	m.sh("cat >/run/key.pub <<'E'\n" + string(key) + "E")
	refused("no signature", upgradeCommand(escape)+" --key /run/key.pub", 4, "not signed")
	refused("another's signature", upgradeCommand(signedImage(t))+" --key /run/key.pub", 4, "no valid signature")

	// Not less than a hundredth of it is noise: what grows more is a bomb.
	large, _ := smallImage{content: append(noise(16<<20), make([]byte, 1<<30)...), announced: "1100000000"}.push(t, "large")
	refused("larger than a slot can be", upgradeCommand(large), 1, `not enough space.*MiB are free`)
	bomb, _ := smallImage{content: make([]byte, 1<<30)}.push(t, "bomb")
	refused("a bomb", upgradeCommand(bomb), 1, `too large.*at most \d+ MiB`)
	lies, _ := smallImage{content: make([]byte, 128<<20), announced: "1000000"}.push(t, "lies")
	refused("larger than it says", upgradeCommand(lies), 1, "too large")

	blobs, _ := smallImage{content: noise(4 << 20)}.push(t, "blobs")
	// All that root gets is taken; fallocate says that it could not have the file system's own reserve.
	full := func(dir string) string {
		return "d=" + dir + "; remount() { [ $d = /usr/local ] || mount -o remount,$1 $d; }; remount rw; " +
			"fallocate -l $(($(stat -fc %f $d) * $(stat -fc %S $d))) $d/full 2>/dev/null; " + upgradeCommand(blobs) + "; code=$?; " +
			"remount rw; rm $d/full; remount ro; exit $code"
	}
	refused("a full data partition", full("/usr/local"), 1, "no space left")
	refused("a full state partition", full("/run/initramfs/cos-state"), 1, `not enough space.*MiB are free`)

	// The cable is drawn when half of the kernel's and the programs' layer is there.
	var once sync.Once
	mend := m.spoil(largestLayer(t), func(w http.ResponseWriter, content []byte) {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		_, _ = w.Write(content[:len(content)/2])
		w.(http.Flusher).Flush()
		once.Do(func() {
			time.Sleep(time.Second) // for what is on the way
			if err := m.net.Unplug(m.Machine, true); err != nil {
				t.Error(err)
			}
		})
		_, _ = w.Write(content[len(content)/2:])
	})
	refused("the registry is unplugged", upgradeCommand(v2), 1, "out of reach.*kept")
	require.NoError(t, m.net.Unplug(m.Machine, false))
	mend()

	require.Equal(t, boots, m.Boots())
	m.verify()
	m.upgrade(v2) // goes on
	require.Equal(t, v2.digest(), m.state().Slots["active"].Digest)
}

// largestLayer is that of the bare v1, which all images of the test have.
func largestLayer(t *testing.T) (blob v1.Hash) {
	t.Helper()
	layers, err := image(t, bare.image(t).layout).Layers()
	require.NoError(t, err)
	largest := int64(0)
	for _, l := range layers {
		size, err := l.Size()
		require.NoError(t, err)
		if size > largest {
			largest = size
			blob, err = l.Digest()
			require.NoError(t, err)
		}
	}
	return blob
}
