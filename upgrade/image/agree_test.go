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
	require.Equal(r, disk.bytes(), s.bytes())
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
