package image

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"
)

func key(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/cosign/" + name + ".pub")
	require.NoError(t, err)
	return data
}

// copied is a layout that a test may spoil.
func copied(t testing.TB, layout string) string {
	t.Helper()
	to := t.TempDir()
	require.NoError(t, os.CopyFS(to, os.DirFS(layout)))
	return to
}

func TestSignaturesOfCosignAreUnderstood(t *testing.T) {
	for name, c := range map[string]struct {
		layout, key string
		want        error
	}{
		"an image by ECDSA":          {"image", "ec", nil},
		"an image by RSA":            {"image", "rsa", nil},
		"an image by somebody else":  {"image", "other", ErrSignature},
		"an index by ECDSA":          {"index", "ec", nil},
		"an index by somebody else":  {"index", "rsa", ErrSignature},
		"an image that nobody signs": {"", "ec", ErrUnsigned},
	} {
		t.Run(name, func(t *testing.T) {
			layout := "testdata/cosign/" + c.layout
			if c.layout == "" {
				layout, _ = layoutOf(t, "linux/amd64", tarOf(t, file{name: "x", body: "1"}))
			}
			host := site(t, nil)
			push(t, layout, host, "v1")
			for _, ref := range []string{"ocifile:" + layout, "oci:" + host + "/os:v1"} {
				i, err := tryOpen(t, ref, Options{Insecure: true, Key: key(t, c.key)})
				if c.want != nil {
					require.ErrorIs(t, err, c.want, ref)
					continue
				}
				require.NoError(t, err, ref)
				require.NoError(t, i.Unpack(t.Context(), filepath.Join(t.TempDir(), "tree"), nil))
				require.Equal(t, "v9", i.Identity().Version, "from os-release: there is no label")
				require.NoError(t, i.Close())
			}
		})
	}
}

func TestASignatureIsForItsImageOnly(t *testing.T) {
	layout := copied(t, "testdata/cosign/image")
	other, digest := layoutOf(t, "linux/amd64", tarOf(t, file{name: "x", body: "1"}))
	require.NoError(t, os.CopyFS(layout+"/more", os.DirFS(other)))
	for _, name := range []string{"blobs/sha256/" + digest.Hex} {
		require.NoError(t, os.Rename(filepath.Join(layout, "more", name), filepath.Join(layout, name)))
	}
	path := filepath.Join(layout, "index.json")
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	var index v1.IndexManifest
	require.NoError(t, json.Unmarshal(raw, &index))
	manifest, err := os.ReadFile(filepath.Join(layout, "blobs/sha256", digest.Hex))
	require.NoError(t, err)
	index.Manifests[0].Digest, index.Manifests[0].Size = digest, int64(len(manifest))
	raw, err = json.Marshal(index)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, raw, 0o600))
	_, err = tryOpen(t, "ocifile:"+layout, Options{Key: key(t, "ec")})
	require.ErrorIs(t, err, ErrSignature)
	require.ErrorContains(t, err, "the image is "+digest.String())
}

func TestASignatureIsFoundByItsTagInALayout(t *testing.T) {
	layout := copied(t, "testdata/cosign/image")
	path := filepath.Join(layout, "index.json")
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	var index v1.IndexManifest
	require.NoError(t, json.Unmarshal(raw, &index))
	index.Manifests[1].Annotations = map[string]string{refName: "registry.example/os:" + signatureTag(index.Manifests[0].Digest)}
	raw, err = json.Marshal(index)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, raw, 0o600))
	open(t, "ocifile:"+layout, Options{Key: key(t, "ec")})
}

func TestOnlyImagesThatCanBeSignedAreAccepted(t *testing.T) {
	_, err := tryOpen(t, "dir:"+t.TempDir(), Options{Key: key(t, "ec")})
	require.ErrorIs(t, err, ErrUnsigned)
	for name, text := range map[string]string{
		"nothing": "", "no PEM": "hello", "a private key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"damaged": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
	} {
		_, err := tryOpen(t, "ocifile:testdata/cosign/image", Options{Key: []byte(text)})
		require.ErrorIs(t, err, ErrSignature, name)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	_, err = parseKey(publicPEM(t, weak.Public()))
	require.ErrorContains(t, err, "1024 bits")
}

func publicPEM(t testing.TB, k crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: publicKeyHeader, Bytes: der})
}

func claimFor(digest v1.Hash) []byte {
	return []byte(`{"critical":{"identity":{"docker-reference":"x"},"image":{"docker-manifest-digest":"` + digest.String() + `"},"type":"` + claimText + `"},"optional":null}`)
}

func TestClaimsAreReadStrictly(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	k, err := parseKey(publicPEM(t, public))
	require.NoError(t, err)
	digest := sha256Of([]byte("image"))
	good := claimFor(digest)
	sign := func(claim []byte) string { return base64.StdEncoding.EncodeToString(ed25519.Sign(private, claim)) }
	require.NoError(t, verifyClaim(good, sign(good), digest, k))
	for name, claim := range map[string][]byte{
		"another image": claimFor(sha256Of([]byte("other"))), "no JSON": []byte("{"), "empty": {},
		"another type": bytes.Replace(good, []byte("cosign"), []byte("atomic"), 1),
	} {
		require.ErrorIs(t, verifyClaim(claim, sign(claim), digest, k), ErrSignature, name)
	}
	require.ErrorIs(t, verifyClaim(good, "%%%", digest, k), ErrSignature)
	require.ErrorIs(t, verifyClaim(append(good, ' '), sign(good), digest, k), ErrSignature)
	require.ErrorIs(t, verifyClaim(good, strings.Repeat("A", 88), digest, k), ErrSignature)
}

func FuzzSignature(f *testing.F) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(f, err)
	digest := sha256Of([]byte("image"))
	f.Add(claimFor(digest))
	f.Add([]byte(`{"critical":null}`))
	f.Fuzz(func(t *testing.T, claim []byte) {
		sig := base64.StdEncoding.EncodeToString(ed25519.Sign(private, claim))
		if verifyClaim(claim, sig, digest, public) == nil {
			require.Contains(t, string(claim), "critical")
		}
		_ = verifyClaim(claim, string(claim), digest, public)
		_, _ = parseKey(claim)
	})
}
