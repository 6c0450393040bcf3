package pki_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/k3slab/pki"
)

func newAuthority(t *testing.T) *pki.Authority {
	t.Helper()
	base := filepath.Join(t.TempDir(), "tls", "ca")
	require.NoError(t, pki.CreateAuthority(base, "k3s-server-ca"))
	authority, err := pki.LoadAuthority(base)
	require.NoError(t, err)
	return authority
}

func TestAnIssuedCertificateServesUnderItsAuthority(t *testing.T) {
	authority := newAuthority(t)
	base := filepath.Join(t.TempDir(), "leaf")
	require.NoError(t, authority.Issue(base, pki.Leaf{
		CommonName: "kube-apiserver", Organizations: []string{"system:masters"},
		SANs: []string{"localhost", "", "10.1.0.1", "localhost", "fd00::1"}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}))
	pair, err := tls.LoadX509KeyPair(pki.Pair(base))
	require.NoError(t, err)
	require.Len(t, pair.Certificate, 2, "the chain holds the authority")
	leaf := pair.Leaf
	require.Equal(t, []string{"localhost"}, leaf.DNSNames)
	require.Len(t, leaf.IPAddresses, 2)
	require.True(t, leaf.IPAddresses[0].Equal(net.IPv4(10, 1, 0, 1)))
	roots := x509.NewCertPool()
	roots.AddCert(authority.Certificate)
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "10.1.0.1", KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	require.NoError(t, err)
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	require.Error(t, err)
}

func TestKeysAreReadableByTheirOwnerAlone(t *testing.T) {
	base := filepath.Join(t.TempDir(), "ca")
	require.NoError(t, pki.CreateAuthority(base, "ca"))
	info, err := os.Stat(base + ".key")
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestDamagedAuthoritiesAreRefused(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, base string){
		"no certificate":      func(t *testing.T, base string) { require.NoError(t, os.Remove(base+".crt")) },
		"no key":              func(t *testing.T, base string) { require.NoError(t, os.Remove(base+".key")) },
		"garbage certificate": func(t *testing.T, base string) { require.NoError(t, os.WriteFile(base+".crt", []byte("x"), 0o600)) },
		"garbage key":         func(t *testing.T, base string) { require.NoError(t, os.WriteFile(base+".key", []byte("x"), 0o600)) },
		"another's key": func(t *testing.T, base string) {
			key, err := pki.NewKey()
			require.NoError(t, err)
			require.NoError(t, pki.WriteKey(base+".key", key))
		},
	} {
		t.Run(name, func(t *testing.T) {
			base := filepath.Join(t.TempDir(), "ca")
			require.NoError(t, pki.CreateAuthority(base, "ca"))
			damage(t, base)
			_, err := pki.LoadAuthority(base)
			require.ErrorContains(t, err, "load authority")
		})
	}
}

func TestARequestProvesItsKeyAndGetsACertificate(t *testing.T) {
	key, err := pki.NewKey()
	require.NoError(t, err)
	b, err := pki.NewRequest("n1", key)
	require.NoError(t, err)
	request, err := pki.ParseRequest(b)
	require.NoError(t, err)
	require.Equal(t, "n1", request.Subject.CommonName)

	chain, err := newAuthority(t).Sign(request.PublicKey, pki.Leaf{CommonName: "system:node:n1", Organizations: []string{"system:nodes"}})
	require.NoError(t, err)
	leaf, err := pki.ParseCertificate(chain)
	require.NoError(t, err)
	require.Equal(t, "system:node:n1", leaf.Subject.CommonName)
	require.True(t, key.PublicKey.Equal(leaf.PublicKey))
}

func TestBadRequestsAreRefused(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty":        nil,
		"not PEM":      []byte("hello"),
		"another PEM":  newAuthority(t).PEM,
		"not a CSR":    []byte("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"),
		"far too long": bytes.Repeat([]byte("x"), pki.MaxRequest+1),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pki.ParseRequest(b)
			require.ErrorContains(t, err, "certificate request")
		})
	}
}

func TestWriteFileReplacesContentAndMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	require.NoError(t, pki.WriteFile(path, []byte("old"), 0o600))
	require.NoError(t, pki.WriteFile(path, []byte("new"), 0o644))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "new", string(b))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o644), info.Mode().Perm())
	left, err := filepath.Glob(path + ".*")
	require.NoError(t, err)
	require.Empty(t, left)
}

func FuzzParseRequest(f *testing.F) {
	key, err := pki.NewKey()
	require.NoError(f, err)
	b, err := pki.NewRequest("n1", key)
	require.NoError(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if request, err := pki.ParseRequest(b); err == nil {
			require.NotNil(t, request.PublicKey)
		}
	})
}
