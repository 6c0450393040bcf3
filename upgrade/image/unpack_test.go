package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestLayersMakeTheTreeThatTheirRulesSay(t *testing.T) {
	for name, c := range map[string]struct {
		layers [][]file
		want   map[string]string
	}{
		"a whiteout removes what is below": {
			[][]file{{dir("a"), {name: "a/x", body: "1"}, {name: "a/y", body: "2"}}, {{name: "a/.wh.x"}}},
			map[string]string{"a": "dir", "a/y": "2"},
		},
		"a whiteout removes a whole directory": {
			[][]file{{dir("a"), dir("a/b"), {name: "a/b/x", body: "1"}}, {{name: ".wh.a"}}}, map[string]string{},
		},
		"a whiteout leaves what its own layer made, before or after": {
			[][]file{{dir("a"), {name: "a/old", body: "1"}}, {dir("a"), {name: "a/new", body: "2"}, {name: ".wh.a"}, {name: "a/more", body: "3"}}},
			map[string]string{"a": "dir", "a/new": "2", "a/more": "3"},
		},
		"an opaque directory hides only what is below": {
			[][]file{{dir("a"), {name: "a/old", body: "1"}}, {dir("a"), {name: "a/new", body: "2"}, {name: "a/.wh..wh..opq"}}},
			map[string]string{"a": "dir", "a/new": "2"},
		},
		"an opaque directory deep below its layer's own": {
			[][]file{{dir("a"), dir("a/b"), {name: "a/b/old", body: "1"}}, {{name: "a/b/new", body: "2"}, {name: "a/.wh..wh..opq"}}},
			map[string]string{"a": "dir", "a/b": "dir", "a/b/new": "2"},
		},
		"a whiteout of nothing is nothing":   {[][]file{{{name: "x", body: "1"}}, {{name: "no/where/.wh.y"}, {name: "x/.wh.y"}}}, map[string]string{"x": "1"}},
		"what aufs kept for itself is left":  {[][]file{{{name: ".wh..wh.plnk", body: "1"}, {name: "x", body: "1"}}}, map[string]string{"x": "1"}},
		"the last of two entries counts":     {[][]file{{{name: "x", body: "1"}, {name: "x", body: "22"}}}, map[string]string{"x": "22"}},
		"a file takes a directory's place":   {[][]file{{dir("x"), {name: "x/y", body: "1"}}, {{name: "x", body: "f"}}}, map[string]string{"x": "f"}},
		"a directory takes a file's place":   {[][]file{{{name: "x", body: "f"}}, {dir("x"), {name: "x/y", body: "1"}}}, map[string]string{"x": "dir", "x/y": "1"}},
		"a directory takes a link's place":   {[][]file{{dir("u"), symlink("x", "u")}, {dir("x"), {name: "x/y", body: "1"}}}, map[string]string{"u": "dir", "x": "dir", "x/y": "1"}},
		"a directory twice keeps its files":  {[][]file{{dir("x"), {name: "x/y", body: "1"}}, {dir("x")}}, map[string]string{"x": "dir", "x/y": "1"}},
		"directories that are not named are": {[][]file{{{name: "a/b/c", body: "1"}}}, map[string]string{"a": "dir", "a/b": "dir", "a/b/c": "1"}},
		"links of lower layers are followed": {
			[][]file{{dir("usr/bin"), symlink("bin", "usr/bin")}, {{name: "bin/sh", body: "1"}}},
			map[string]string{"usr": "dir", "usr/bin": "dir", "usr/bin/sh": "1", "bin": "-> usr/bin"},
		},
		"hard links are one file": {[][]file{{{name: "x", body: "1"}, hardlink("y", "x")}}, map[string]string{"x": "1", "y": "1"}},
		"a hard link of the layer below": {
			[][]file{{{name: "x", body: "1"}}, {hardlink("y", "x"), {name: ".wh.x"}}}, map[string]string{"y": "1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var layers [][]byte
			for _, l := range c.layers {
				layers = append(layers, tarOf(t, l...))
			}
			layout, _ := layoutOf(t, "linux/amd64", layers...)
			i := open(t, "ocifile:"+layout, Options{})
			to := t.TempDir()
			require.NoError(t, i.Unpack(t.Context(), to, nil))
			require.Equal(t, c.want, listing(t, to))

			again := open(t, "dir:"+to, Options{})
			require.GreaterOrEqual(t, i.Bytes(), again.Bytes(), "what was counted before is there after, or was on the way")
		})
	}
}

func TestNothingLeavesTheTree(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	require.NoError(t, os.WriteFile(secret, []byte("mine"), 0o600))
	up := strings.Repeat("../", 20)
	for name, c := range map[string]struct {
		layers [][]file
		want   error // nil: it stays inside
	}{
		"dots":                                   {[][]file{{{name: up[:3] + "x", body: "1"}}}, ErrUnsafe},
		"dots in the middle":                     {[][]file{{dir("a"), {name: "a/../../x", body: "1"}}}, ErrUnsafe},
		"an absolute name":                       {[][]file{{{name: secret, body: "1"}}}, ErrUnsafe},
		"a hard link to an absolute name":        {[][]file{{hardlink("x", secret)}}, ErrUnsafe},
		"a hard link with dots":                  {[][]file{{hardlink("x", up+secret[1:])}}, ErrUnsafe},
		"a hard link through a link":             {[][]file{{symlink("d", outside), hardlink("x", "d/secret")}}, ErrMalformed},
		"a hard link to nothing":                 {[][]file{{hardlink("x", "y")}}, ErrMalformed},
		"a hard link to a directory":             {[][]file{{dir("y"), hardlink("x", "y")}}, ErrMalformed},
		"a hard link to itself":                  {[][]file{{{name: "x", body: "1"}, hardlink("x", "x")}}, ErrMalformed},
		"a whiteout of the parent":               {[][]file{{{name: ".wh..."}}}, ErrUnsafe},
		"a whiteout of itself":                   {[][]file{{{name: "a/.wh.."}}}, ErrUnsafe},
		"a whiteout of nothing":                  {[][]file{{{name: ".wh."}}}, ErrUnsafe},
		"the root as a link":                     {[][]file{{symlink("./", outside)}}, ErrUnsafe},
		"a link round in circles":                {[][]file{{symlink("a", "b"), symlink("b", "a"), {name: "a/x", body: "1"}}}, ErrMalformed},
		"a file below a file":                    {[][]file{{{name: "x", body: "1"}, {name: "x/y", body: "1"}}}, ErrMalformed},
		"an attribute of overlayfs":              {[][]file{{{name: "x", pax: map[string]string{xattrPrefix + "trusted.overlay.redirect": "/etc"}}}}, ErrUnsafe},
		"a huge name":                            {[][]file{{{name: strings.Repeat("x/", 3000) + "y", body: "1"}}}, ErrMalformed},
		"a huge part of a name":                  {[][]file{{{name: strings.Repeat("x", 256), body: "1"}}}, ErrMalformed},
		"a type that nobody knows":               {[][]file{{{name: "x", kind: 'Q'}}}, ErrMalformed},
		"a file through an absolute link":        {[][]file{{symlink("d", outside)}, {dir(outside[1:]), {name: "d/secret", body: "evil"}}}, nil},
		"a file through a link upwards":          {[][]file{{symlink("d", up+outside[1:])}, {dir(outside[1:]), {name: "d/secret", body: "evil"}}}, nil},
		"a whiteout through a link":              {[][]file{{symlink("d", outside)}, {{name: "d/.wh.secret"}}}, nil},
		"an opaque directory through a link":     {[][]file{{symlink("d", outside)}, {{name: "d/.wh..wh..opq"}}}, nil},
		"a directory over a link":                {[][]file{{symlink("d", outside)}, {dir("d"), {name: "d/secret", body: "evil"}}}, nil},
		"a file over a link to a file":           {[][]file{{symlink("s", secret)}, {{name: "s", body: "evil"}}}, nil},
		"a file over a hard link to a link":      {[][]file{{symlink("s", secret), hardlink("t", "s"), {name: "t", body: "evil"}}}, nil},
		"a whiteout of a directory with a link":  {[][]file{{dir("a"), symlink("a/d", outside)}, {{name: ".wh.a"}}}, nil},
		"a file over a directory that has links": {[][]file{{dir("a"), symlink("a/d", outside)}, {{name: "a", body: "1"}}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var layers [][]byte
			for _, l := range c.layers {
				layers = append(layers, tarOf(t, l...))
			}
			layout, _ := layoutOf(t, "linux/amd64", layers...)
			to := filepath.Join(t.TempDir(), "tree")
			i := open(t, "ocifile:"+layout, Options{})
			err := i.Unpack(t.Context(), to, nil)
			if c.want != nil {
				require.ErrorIs(t, err, c.want)
				require.NoDirExists(t, to)
			} else {
				require.NoError(t, err)
			}
			data, err := os.ReadFile(secret)
			require.NoError(t, err)
			require.Equal(t, "mine", string(data))
			require.Len(t, listing(t, outside), 1)

			// The survey must not be what keeps the applier safe.
			direct := t.TempDir()
			a, err := newApplier(direct, func(int) {})
			require.NoError(t, err)
			defer a.close()
			for _, l := range layers {
				if err = a.add(t.Context(), bytes.NewReader(l), true, &budget{1 << 20, 1000}); err != nil {
					break
				}
			}
			if c.want != nil {
				require.ErrorIs(t, err, c.want)
			}
			require.Len(t, listing(t, outside), 1)
			data, err = os.ReadFile(secret)
			require.NoError(t, err)
			require.Equal(t, "mine", string(data))
		})
	}
}

func TestWhatARootTreeHasIsKept(t *testing.T) {
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	layer := tarOf(t,
		file{name: "su", body: "x", mode: 0o4755}, dir("tmp"),
		file{name: "ping", body: "x", pax: map[string]string{xattrPrefix + "security.capability": capability, xattrPrefix + "user.note": "a=b"}},
		file{name: "null", kind: tar.TypeChar, mode: 0o666, major: 1}, file{name: "pipe", kind: tar.TypeFifo, mode: 0o600},
		symlink("init", "/lib/systemd"), hardlink("su2", "su"), file{name: "tmp", kind: tar.TypeDir, mode: 0o1777}, file{name: "tmp/x", body: "1"},
	)
	layout, _ := layoutOf(t, "linux/amd64", layer)
	one, two := t.TempDir(), t.TempDir()
	require.NoError(t, open(t, "ocifile:"+layout, Options{}).Unpack(t.Context(), one, nil))
	require.NoError(t, open(t, "dir:"+one, Options{}).Unpack(t.Context(), two, nil))
	for _, root := range []string{one, two} {
		stat := func(name string) (st unix.Stat_t) {
			require.NoError(t, unix.Lstat(filepath.Join(root, name), &st))
			return st
		}
		require.EqualValues(t, unix.S_IFREG|0o4755, stat("su").Mode)
		require.EqualValues(t, unix.S_IFDIR|0o1777, stat("tmp").Mode)
		require.EqualValues(t, unix.S_IFCHR|0o666, stat("null").Mode)
		require.EqualValues(t, unix.Mkdev(1, 0), stat("null").Rdev)
		require.EqualValues(t, unix.S_IFIFO|0o600, stat("pipe").Mode)
		require.Equal(t, stat("su").Ino, stat("su2").Ino)
		require.EqualValues(t, 1000, stat("tmp").Mtim.Sec, "a directory keeps its time though a file came later")
		value := make([]byte, 100)
		n, err := unix.Lgetxattr(filepath.Join(root, "ping"), "security.capability", value)
		require.NoError(t, err)
		require.Equal(t, capability, string(value[:n]))
	}
	require.Equal(t, open(t, "dir:"+one, Options{}).Identity(), open(t, "dir:"+two, Options{}).Identity())
}

func TestABombIsRefusedBeforeItFillsTheDisk(t *testing.T) {
	bomb := tarOf(t, file{name: "x", body: strings.Repeat("\x00", 80<<20)})
	layout, _ := layoutOf(t, "linux/amd64", bomb) // 80 MiB in 80 kB
	to := filepath.Join(t.TempDir(), "tree")
	err := open(t, "ocifile:"+layout, Options{}).Unpack(t.Context(), to, nil)
	require.ErrorIs(t, err, ErrTooLarge)
	require.ErrorContains(t, err, "at most 71 MiB")
	require.NoDirExists(t, to)

	packed := filepath.Join(t.TempDir(), "bomb.tar.gz")
	require.NoError(t, os.WriteFile(packed, zipped(t, bomb), 0o600))
	_, err = tryOpen(t, "file:"+packed, Options{})
	require.ErrorIs(t, err, ErrTooLarge)
}

func TestUnpackNeedsAnEmptyPlaceAndLeavesItEmpty(t *testing.T) {
	layout, _ := layoutOf(t, "linux/amd64", tarOf(t, file{name: "x", body: "1"}))
	i := open(t, "ocifile:"+layout, Options{})
	to := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(to, "lost+found"), 0o700))
	require.NoError(t, i.Unpack(t.Context(), to, nil))
	require.ErrorContains(t, i.Unpack(t.Context(), to, nil), "it is not empty")
	require.FileExists(t, filepath.Join(to, "x"), "what was there before stays")
}

func TestAFullDiskLeavesNothing(t *testing.T) {
	small := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", small, "tmpfs", 0, "size=256k"))
	defer func() { require.NoError(t, unix.Unmount(small, 0)) }()
	layout, _ := layoutOf(t, "linux/amd64", tarOf(t, file{name: "x", body: strings.Repeat("y", 1<<20)}))
	err := open(t, "ocifile:"+layout, Options{}).Unpack(t.Context(), small, nil)
	require.ErrorIs(t, err, unix.ENOSPC)
	require.Empty(t, listing(t, small))
}

func TestPlainTreesAreTheSameImageHoweverTheyCome(t *testing.T) {
	files := []file{dir("etc"), {name: "etc/os-release", body: "IMAGE_ID=box\nIMAGE_VERSION=\"v7\"\n"}, symlink("lib", "usr/lib"), {name: "lib/x", body: "1"}, hardlink("y", "lib/x")}
	plain := tarOf(t, append([]file{dir("usr"), dir("usr/lib")}, files...)...)
	var ids []Identity
	for name, data := range map[string][]byte{"a.tar": plain, "b.tgz": zipped(t, plain)} {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		i := open(t, "file:"+path, Options{})
		to := t.TempDir()
		require.NoError(t, i.Unpack(t.Context(), to, nil))
		d := open(t, "dir:"+to, Options{})
		require.Equal(t, i.Bytes(), d.Bytes())
		require.NoError(t, os.WriteFile(filepath.Join(to, "usr/lib/x"), []byte("2"), 0o755))
		require.NotEqual(t, i.Identity().ID, open(t, "dir:"+to, Options{}).Identity().ID)
		ids = append(ids, i.Identity(), d.Identity())
	}
	require.Equal(t, "v7", ids[0].Version)
	require.True(t, isHex(ids[0].ID))
	for _, id := range ids {
		require.Equal(t, ids[0], id)
	}
}

func TestATruncatedTarIsSaidToBeOne(t *testing.T) {
	plain := tarOf(t, file{name: "x", body: strings.Repeat("z", 5000)})
	for name, data := range map[string][]byte{"plain": plain[:3000], "compressed": zipped(t, plain)[:60]} {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		_, err := tryOpen(t, "file:"+path, Options{})
		require.ErrorIs(t, err, ErrTruncated, name)
	}
}

func FuzzLayer(f *testing.F) {
	f.Add(tarOf(f, dir("a"), file{name: "a/x", body: "1"}, symlink("l", "/a"), file{name: "l/y", body: "2"}), tarOf(f, file{name: "a/.wh.x"}))
	f.Add(tarOf(f, hardlink("x", "../y")), []byte("no tar"))
	f.Fuzz(func(t *testing.T, one, two []byte) {
		outside := t.TempDir()
		to := filepath.Join(outside, "tree")
		require.NoError(t, os.Mkdir(to, 0o755))
		a, err := newApplier(to, func(int) {})
		require.NoError(t, err)
		defer a.close()
		s := newSurvey(true)
		for _, l := range [][]byte{one, two} {
			applied := a.add(t.Context(), bytes.NewReader(l), true, &budget{1 << 20, 1000})
			surveyed := s.add(t.Context(), bytes.NewReader(l), true, &budget{1 << 20, 1000})
			if applied != nil || surveyed != nil {
				break
			}
		}
		found, err := os.ReadDir(outside)
		require.NoError(t, err)
		require.Len(t, found, 1, fmt.Sprint(found))
	})
}
