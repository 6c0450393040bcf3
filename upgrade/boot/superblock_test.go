package boot

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLabelsAreReadFromSuperblocks(t *testing.T) {
	for _, test := range []struct {
		label string
		args  []string
	}{{"COS_STATE", nil}, {"ABCDEFGHIJKLMNOP", []string{"-b", "1024"}}, {"", []string{"-O", "^has_journal"}}, {"B", []string{"-O", "64bit", "-b", "4096"}}} {
		name := filepath.Join(t.TempDir(), "disk")
		command(t, "mkfs.ext4", append(slices.Clone(test.args), "-q", "-U", "01234567-89ab-cdef-0123-456789abcdef", "-L", test.label, name, "16M")...)
		require.Equal(t, test.label, readDevice(name).label)
		require.Equal(t, "01234567-89ab-cdef-0123-456789abcdef", readDevice(name).uuid)
		f, err := os.Open(name)
		require.NoError(t, err)
		s, ok := readExt(f)
		f.Close()
		require.True(t, ok)
		require.EqualValues(t, 16<<20, s.blocks*s.block)
	}
	require.Empty(t, readDevice(filepath.Join(t.TempDir(), "gone")))
}

func FuzzReadExt(f *testing.F) {
	f.Add(make([]byte, 2048))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, ok := readExt(bytes.NewReader(data)); ok {
			require.NotZero(t, s.block)
			require.LessOrEqual(t, len(s.label), 16)
		}
		_, _ = imageType(bytes.NewReader(data))
	})
}
