package config

import (
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write golden files and docs/CONFIG.md anew")

// golden compares with a file, or writes it under -update.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "renew with -update")
}

// badToken refuses anything that does not start as a Kairos token does, and leaks it the first way one might.
func badToken(token string) error {
	switch {
	case strings.HasPrefix(token, "b3Rw"):
		return nil
	case strings.HasPrefix(token, "leak"):
		return errors.New("cannot read token " + token)
	}
	return errors.New("the checksum is wrong")
}
