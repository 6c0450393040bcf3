package image

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	oci "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// fullTree is a tree with one of everything.
func fullTree(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	a, err := newApplier(root, func(int) {})
	require.NoError(t, err)
	defer a.close()
	for _, d := range []string{"usr/bin", "etc"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	require.NoError(t, os.WriteFile(root+"/usr/bin/su", []byte(noise(10000)), 0o755))
	require.NoError(t, os.Chmod(root+"/usr/bin/su", 0o755|os.ModeSetuid))
	require.NoError(t, os.Link(root+"/usr/bin/su", root+"/usr/bin/sudo"))
	require.NoError(t, os.Symlink("usr/bin", root+"/bin"))
	require.NoError(t, os.WriteFile(root+"/etc/os-release", []byte("IMAGE_ID=box\nIMAGE_VERSION=v3\n"), 0o644))
	require.NoError(t, os.Lchown(root+"/etc/os-release", 1234, 70000))
	require.NoError(t, unix.Setxattr(root+"/etc", "user.note", []byte{0, 1, '\n'}, 0))
	require.NoError(t, unix.Mknod(root+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	require.NoError(t, os.Mkdir(root+"/other", 0o755))
	return root
}

func TestTheSameTreeIsTheSameImage(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	root := fullTree(t)
	var digests []string
	var archives [][]byte
	for n := range 3 {
		if n == 2 { // another day, another order of names on the disk
			copied := t.TempDir()
			require.NoError(t, open(t, "dir:"+root, Options{}).Unpack(t.Context(), copied, nil))
			root = copied
			require.NoError(t, os.Chtimes(root+"/etc/os-release", time.Now(), time.Now()))
		}
		archive := filepath.Join(t.TempDir(), "x.tar")
		d, err := Pack(t.Context(), PackOptions{Root: root, Platform: "linux/amd64", Out: t.TempDir(), Tar: archive})
		require.NoError(t, err)
		data, err := os.ReadFile(archive)
		require.NoError(t, err)
		digests, archives = append(digests, d), append(archives, data)
	}
	require.Equal(t, digests[0], digests[1])
	require.Equal(t, digests[0], digests[2])
	require.Equal(t, archives[0], archives[1])
	require.Equal(t, archives[0], archives[2])
}

func TestWhatIsPackedComesOutAgain(t *testing.T) {
	root := fullTree(t)
	require.NoError(t, unix.Mount("tmpfs", root+"/other", "tmpfs", 0, "mode=755"))
	require.NoError(t, os.WriteFile(root+"/other/not-ours", nil, 0o600))
	out, archive := t.TempDir(), filepath.Join(t.TempDir(), "x.tar")
	digest, err := Pack(t.Context(), PackOptions{Root: root, Platform: "linux/amd64", Out: out, Tar: archive, Labels: map[string]string{"a": "b"}})
	require.NoError(t, unix.Unmount(root+"/other", 0))
	require.NoError(t, err)
	want := open(t, "dir:"+root, Options{})
	for _, ref := range []string{"ocifile:" + out, "ocifile:" + archive} {
		i := open(t, ref, Options{})
		require.Equal(t, Identity{ID: digest[7:], Version: "v3", Platform: "linux/amd64"}, i.Identity())
		require.Equal(t, want.Bytes(), i.Bytes(), "announced, before a blob is read")
		to := t.TempDir()
		require.NoError(t, i.Unpack(t.Context(), to, nil))
		require.Equal(t, want.Identity().ID, open(t, "dir:"+to, Options{}).Identity().ID)
	}

	// others read it too
	p, err := oci.FromPath(out)
	require.NoError(t, err)
	index, err := p.ImageIndex()
	require.NoError(t, err)
	require.NoError(t, validate.Index(index))
	docker, err := tarball.ImageFromPath(archive, nil)
	require.NoError(t, err)
	require.NoError(t, validate.Image(docker))
}

func TestALayoutHoldsOneImageForEachPlatform(t *testing.T) {
	root, out := fullTree(t), t.TempDir()
	pack := func(platform, version string) string {
		d, err := Pack(t.Context(), PackOptions{Root: root, Platform: platform, Version: version, Out: out})
		require.NoError(t, err)
		return d[7:]
	}
	pack("linux/amd64", "v1")
	arm := pack("linux/arm64", "v1")
	amd := pack("linux/amd64", "v2")
	require.Equal(t, amd, open(t, "ocifile:"+out, Options{}).Identity().ID)
	require.Equal(t, arm, open(t, "ocifile:"+out, Options{Platform: "linux/arm64"}).Identity().ID)
	_, err := tryOpen(t, "ocifile:"+out, Options{Platform: "linux/riscv64"})
	require.ErrorIs(t, err, ErrPlatform)
	require.ErrorContains(t, err, "linux/arm64")
}

func TestWhatCannotBePackedIsRefused(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.WriteFile(root+"/.wh.x", nil, 0o600))
	out := t.TempDir()
	_, err := Pack(t.Context(), PackOptions{Root: root, Out: out})
	require.ErrorContains(t, err, ".wh.x")
	require.NoFileExists(t, out+"/index.json")
	found, err := os.ReadDir(out + "/blobs/sha256")
	require.NoError(t, err)
	require.Empty(t, found)
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	_, err = Pack(t.Context(), PackOptions{Root: root, Out: out})
	require.ErrorContains(t, err, "SOURCE_DATE_EPOCH")
}

func TestMoreThanAnnouncedIsRefused(t *testing.T) {
	out, _ := announcedLayout(t, "linux/amd64", []string{"4096"}, tarOf(t, file{name: "x", body: noise(100 << 10)}))
	to := filepath.Join(t.TempDir(), "tree")
	require.ErrorIs(t, open(t, "ocifile:"+out, Options{}).Unpack(t.Context(), to, nil), ErrTooLarge)
	require.NoDirExists(t, to)
}

func TestOnlyWhatIsNotAnnouncedIsReadThrough(t *testing.T) {
	ours, more := tarOf(t, file{name: "x", body: noise(8 << 10)}), tarOf(t, file{name: "y", body: noise(40 << 10)})
	for name, c := range map[string]struct {
		announced   []string
		before      int64 // 0 is a guess
		readThrough bool
	}{
		"all layers":               {[]string{"8192", "40960"}, 49152, false},
		"more than it takes":       {[]string{"8192", "81920"}, 90112, false},
		"what was built on ours":   {[]string{"8192"}, 0, true},
		"nothing":                  {nil, 0, true},
		"less than nothing":        {[]string{"-8192", "81920"}, 0, true},
		"no number":                {[]string{"8192", "40 KiB"}, 0, true},
		"more than a number":       {[]string{"9223372036854775807", "9223372036854775807"}, 0, true},
		"more than can come of it": {[]string{"8192", "1000000000000"}, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			out, _ := announcedLayout(t, "linux/amd64", c.announced, ours, more)
			readThrough := false
			i := open(t, "ocifile:"+out, Options{Progress: func(p Progress) { readThrough = readThrough || p.Step == "read through" }})
			if c.before != 0 {
				require.Equal(t, c.before, i.Bytes())
			}
			require.NoError(t, i.Unpack(t.Context(), t.TempDir(), nil))
			require.Equal(t, c.readThrough, readThrough)
			if c.readThrough {
				require.EqualValues(t, 49152, i.Bytes())
			}
		})
	}
}

func TestArchivesOfDockerAreRead(t *testing.T) {
	root, out := fullTree(t), t.TempDir()
	_, err := Pack(t.Context(), PackOptions{Root: root, Platform: "linux/amd64", Out: out})
	require.NoError(t, err)
	p, err := oci.FromPath(out)
	require.NoError(t, err)
	hash, err := v1.NewHash("sha256:" + open(t, "ocifile:"+out, Options{}).Identity().ID)
	require.NoError(t, err)
	packed, err := p.Image(hash)
	require.NoError(t, err)
	layers, err := packed.Layers()
	require.NoError(t, err)
	plain, err := tarball.LayerFromOpener(layers[0].Uncompressed)
	require.NoError(t, err)
	config, err := packed.ConfigFile()
	require.NoError(t, err)
	base, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", Config: config.Config})
	require.NoError(t, err)
	saved, err := mutate.AppendLayers(base, plain)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "saved.tar")
	require.NoError(t, tarball.WriteToFile(path, nil, saved))
	i := open(t, "ocifile:"+path, Options{})
	require.Equal(t, "v3", i.Identity().Version)
	to := t.TempDir()
	require.NoError(t, i.Unpack(t.Context(), to, nil))
	require.Equal(t, open(t, "dir:"+root, Options{}).Identity().ID, open(t, "dir:"+to, Options{}).Identity().ID)
}

func TestALayoutThatIsDamagedSaysHow(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, out string, layer string)
		want  error
	}{
		"cut":     {func(t *testing.T, _, layer string) { require.NoError(t, os.Truncate(layer, 10)) }, ErrTruncated},
		"longer":  {func(t *testing.T, _, layer string) { require.NoError(t, os.Truncate(layer, 1<<20)) }, ErrDigest},
		"missing": {func(t *testing.T, _, layer string) { require.NoError(t, os.Remove(layer)) }, ErrNotFound},
		"rotten": {func(t *testing.T, _, layer string) {
			data, err := os.ReadFile(layer)
			require.NoError(t, err)
			data[len(data)/2] ^= 1
			require.NoError(t, os.WriteFile(layer, data, 0o600))
		}, ErrDigest},
		"no index": {func(t *testing.T, out, _ string) { require.NoError(t, os.Remove(out+"/index.json")) }, ErrNotFound},
		"an odd index": {func(t *testing.T, out, _ string) {
			require.NoError(t, os.WriteFile(out+"/index.json", []byte("{"), 0o600))
		}, ErrMalformed},
		"an odd digest": {func(t *testing.T, out, _ string) {
			data, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []any{map[string]any{"digest": "sha256:../../../etc/passwd", "size": 10}}})
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(out+"/index.json", data, 0o600))
		}, ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			out, _ := layoutOf(t, "linux/amd64", tarOf(t, file{name: "x", body: noise(5000)}))
			i, err := tryOpen(t, "ocifile:"+out, Options{})
			require.NoError(t, err)
			layer := filepath.Join(out, "blobs/sha256", i.layers[0].blob.Digest.Hex)
			require.NoError(t, i.Close())
			c.spoil(t, out, layer)
			to := filepath.Join(t.TempDir(), "tree")
			if i, err = tryOpen(t, "ocifile:"+out, Options{}); err == nil {
				err = i.Unpack(t.Context(), to, nil)
				require.NoError(t, i.Close())
			}
			require.ErrorIs(t, err, c.want)
			require.NoDirExists(t, to)
		})
	}
}
