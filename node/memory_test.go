package node

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOnlyCleanMappingsOfTheProgramAreGivenBack(t *testing.T) {
	smaps, err := os.ReadFile("testdata/smaps.txt")
	require.NoError(t, err)
	found, err := cleanMappings(strings.NewReader(string(smaps)), "/usr/bin/muster")
	require.NoError(t, err)
	require.Equal(t, []mapping{{0x400000, 0x14be000}, {0x18be000, 0x1920000}}, found)
}

func TestMappingsThatAreNoneAreAnError(t *testing.T) {
	for _, bad := range []string{"x\n", "zz-40 r-xp 0 0 0 /usr/bin/muster\n", "40-40 r-xp 0 0 0 /usr/bin/muster\n"} {
		_, err := cleanMappings(strings.NewReader(bad), "/usr/bin/muster")
		require.ErrorIs(t, err, errNoMapping, bad)
	}
}

func TestTheProgramGoesOnWithoutItsPages(t *testing.T) {
	for range 3 {
		require.NoError(t, unmapPages())
	}
}
