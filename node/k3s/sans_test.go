package k3s

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// On K3s's command line a list replaces that of the configuration file.
func TestAUsersNamesInTheCertificateDoNotTakeOursOut(t *testing.T) {
	s := initMaster()
	s.TLSSANs = []string{"192.168.1.100"}
	args, err := s.argv()
	require.NoError(t, err)
	require.NotContains(t, args, "--tls-san=192.168.1.100", "the file has it")

	s.Args = append(s.Args, "--tls-san api.example.com")
	args, err = s.argv()
	require.NoError(t, err)
	require.Contains(t, args, "api.example.com")
	require.Contains(t, args, "--tls-san=192.168.1.100")

	s.ReplaceArgs = true
	args, err = s.argv()
	require.NoError(t, err)
	require.NotContains(t, args, "--tls-san=192.168.1.100")
}
