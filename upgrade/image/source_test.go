package image

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReferences(t *testing.T) {
	for _, good := range []string{
		"oci:registry.example/box:v7", "oci:registry.example:5000/a/b@sha256:" + strings.Repeat("a", 64), "ocifile:/x.tar", "dir:/", "file:x y.tar",
	} {
		s, err := Parse(good)
		require.NoError(t, err, good)
		require.Equal(t, good, s.String())
	}
	for _, bad := range []string{"", "oci", "oci:", "box:v7", "http://registry.example/x", "/root", "dir:", "file:a\x00b", "docker:x", "OCI:x"} {
		_, err := Parse(bad)
		require.ErrorIs(t, err, ErrReference, bad)
		require.ErrorContains(t, err, "use oci:NAME", bad)
	}
	for _, bad := range []string{"oci:Registry.example/BOX", "oci:a/b:c:d", "oci:x@sha256:12", "oci:" + strings.Repeat("x", 5000)} {
		_, err := Parse(bad)
		require.ErrorIs(t, err, ErrReference, bad)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"oci:a/b:c@sha256:0", "dir:/x", "file:", "ocifile:\x00", ":"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			require.ErrorIs(t, err, ErrReference)
			require.Less(t, len(err.Error()), 4096+len(text))
			return
		}
		require.Equal(t, text, s.String())
	})
}
