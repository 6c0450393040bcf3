package image

import (
	"archive/tar"
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// What the survey says before a byte is written is what lies on the disk afterwards, whatever the layers do.
func TestTheSurveyAndTheDiskAgree(t *testing.T) {
	part := rapid.SampledFrom([]string{"a", "b", "c"})
	path := rapid.Custom(func(t *rapid.T) string {
		p := part.Draw(t, "part")
		for range rapid.IntRange(0, 2).Draw(t, "depth") {
			p += "/" + part.Draw(t, "part")
		}
		return p
	})
	anEntry := rapid.Custom(func(r *rapid.T) file {
		name := path.Draw(r, "name")
		switch rapid.IntRange(0, 7).Draw(r, "kind") {
		case 0, 1:
			return dir(name)
		case 2:
			return symlink(name, rapid.SampledFrom([]string{"a", "/b", "../c", "../../a/b", "/"}).Draw(r, "link"))
		case 3:
			return hardlink(name, path.Draw(r, "target"))
		case 4:
			return file{name: name + "/" + opaqueMarker}
		case 5:
			return file{name: whiteoutPrefix + part.Draw(r, "hidden")}
		default:
			return file{name: name, body: rapid.StringN(0, 3, 3).Draw(r, "body")}
		}
	})
	layers := rapid.SliceOfN(rapid.SliceOfN(anEntry, 1, 8), 1, 3)
	rapid.Check(t, func(r *rapid.T) { requireAgreement(t, r, layers.Draw(r, "layers")) })
}

func TestAHardLinkIntoTheDirectoryThatItReplacesIsMalformed(t *testing.T) {
	body := file{name: "a/b/f", body: "x"}
	requireAgreement(t, t, [][]file{{body, hardlink("a", "a/b/f")}})
	requireAgreement(t, t, [][]file{{body, symlink("l", "a/b"), hardlink("a", "l/f")}})
	requireAgreement(t, t, [][]file{{body}, {symlink("l", "a/b"), hardlink("a/b", "l/f")}})
}

func TestAHardLinkIsOfTheLayerThatMakesIt(t *testing.T) {
	requireAgreement(t, t, [][]file{{symlink("a", "a")}, {hardlink("c/a", "a"), {name: "c/" + opaqueMarker}}})
}

type failer interface {
	require.TestingT
	Helper()
}

func requireAgreement(t *testing.T, r failer, layers [][]file) {
	r.Helper()
	to, err := os.MkdirTemp("", "agree")
	require.NoError(r, err)
	defer os.RemoveAll(to)
	a, err := newApplier(to, func(int) {})
	require.NoError(r, err)
	defer a.close()
	s := newSurvey(true)
	for _, l := range layers {
		data := tarOf(t, l...)
		applied := a.add(t.Context(), bytes.NewReader(data), true, &budget{1 << 20, 1000})
		surveyed := s.add(t.Context(), bytes.NewReader(data), true, &budget{1 << 20, 1000})
		require.Equal(r, surveyed == nil, applied == nil, "survey: %v\ndisk: %v", surveyed, applied)
		if applied != nil {
			require.ErrorIs(r, applied, ErrMalformed)
			return
		}
	}
	disk := newSurvey(true)
	stream := streamTree(t.Context(), to)
	require.NoError(r, disk.add(t.Context(), stream, false, &budget{1 << 20, 1000}))
	require.NoError(r, stream.Close())
	require.Equal(r, shape(disk), shape(s))
	require.Equal(r, disk.used, s.used)
	require.GreaterOrEqual(r, s.peak, s.used)
}

func shape(s *survey) map[string]string {
	all := map[string]string{}
	s.each(func(name string, n *node) {
		switch {
		case n.children != nil:
			all[name] = "dir"
		case n.header.Typeflag == tar.TypeSymlink:
			all[name] = "-> " + n.header.Linkname
		default:
			all[name] = n.sum
		}
	})
	return all
}

// A layer that replaces a large file by another needs room for one of them, but one that brings it needs it though it is gone in the end.
func TestWhatALayerReplacesCountsWhileItIsThere(t *testing.T) {
	big := file{name: "usr/bin/k3s", body: string(make([]byte, 100*block))}
	small := file{name: "usr/bin/k3s", body: "x"}
	for name, c := range map[string]struct {
		layers     [][]file
		used, peak int64
	}{
		"one layer":              {[][]file{{big}}, 102, 102},
		"replaced by a like one": {[][]file{{big}, {big}}, 102, 102},
		"replaced by a small":    {[][]file{{big}, {small}}, 3, 102},
		"removed":                {[][]file{{big}, {file{name: "usr/" + whiteoutPrefix + "bin"}}}, 1, 102},
		"its other name stays":   {[][]file{{big, hardlink("usr/k3s", "usr/bin/k3s")}, {small}}, 103, 103},
		"its directory goes":     {[][]file{{big}, {file{name: "usr", body: "x"}}}, 1, 102},
		"there first, then more": {[][]file{{big}, {small}, {file{name: "a", body: big.body}}}, 103, 103},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSurvey(false)
			for _, l := range c.layers {
				require.NoError(t, s.add(t.Context(), bytes.NewReader(tarOf(t, l...)), true, &budget{1 << 30, 1000}))
			}
			require.Equal(t, c.used*block, s.used)
			require.Equal(t, c.peak*block, s.peak)
		})
	}
}
