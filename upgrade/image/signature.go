package image

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// What cosign writes beside an image, in its form with keys: an image sha256-HEX.sig whose layers are claims and whose
// annotations are signatures over them. The newer bundles (referrers of OCI 1.1) and everything keyless, which needs to ask
// a transparency log, are not read.
const (
	claimType       = "application/vnd.dev.cosign.simplesigning.v1+json"
	claimText       = "cosign container image signature"
	signatureKey    = "dev.cosignproject.cosign/signature"
	signatureKind   = "dev.cosignproject.cosign/sigs"
	maxClaims       = 64 // signatures pile up under one tag
	maxTold         = 4  // of what is wrong with them
	minimumRSABits  = 2048
	publicKeyHeader = "PUBLIC KEY"
)

func signatureTag(signed v1.Hash) string { return "sha256-" + signed.Hex + ".sig" }

// parseKey reads a public key as `cosign generate-key-pair` writes it. Errors are ErrSignature.
func parseKey(data []byte) (crypto.PublicKey, error) {
	p, _ := pem.Decode(data)
	if p == nil || p.Type != publicKeyHeader {
		return nil, fmt.Errorf("signature key: %w: it is not a PEM block %q", ErrSignature, publicKeyHeader)
	}
	key, err := x509.ParsePKIXPublicKey(p.Bytes)
	if err != nil {
		return nil, fmt.Errorf("signature key: %w: %w", ErrSignature, err)
	}
	switch k := key.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return key, nil
	case *rsa.PublicKey:
		if k.N.BitLen() >= minimumRSABits {
			return key, nil
		}
		return nil, fmt.Errorf("signature key: %w: RSA of %d bits, at least %d are needed", ErrSignature, k.N.BitLen(), minimumRSABits)
	}
	return nil, fmt.Errorf("signature key: %w: keys of type %T are not read", ErrSignature, key)
}

// demandSignature returns nil if one of the digests is signed. A signed index vouches for the manifests in it.
func demandSignature(ctx context.Context, store blobs, chain []v1.Hash, key crypto.PublicKey) error {
	var problems several
	for _, signed := range chain {
		manifests, err := store.signatures(ctx, signed)
		if err != nil {
			return fmt.Errorf("fetch signature of %s: %w", signed, err)
		}
		for _, raw := range manifests {
			err := verifyManifest(ctx, store, raw, signed, key)
			if err == nil {
				return nil
			}
			problems = append(problems, err)
		}
	}
	if len(problems) == 0 {
		return fmt.Errorf("%w: there is no %s beside it", ErrUnsigned, signatureTag(chain[0]))
	}
	return problems
}

func verifyManifest(ctx context.Context, store blobs, raw []byte, signed v1.Hash, key crypto.PublicKey) error {
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("read signature manifest: %w: %w", ErrSignature, err)
	}
	if len(m.Layers) > maxClaims {
		return fmt.Errorf("%w: %d signatures, at most %d are read", ErrSignature, len(m.Layers), maxClaims)
	}
	var problems several
	for _, d := range m.Layers {
		signature, ok := d.Annotations[signatureKey]
		if string(d.MediaType) != claimType || !ok {
			continue
		}
		if err := checkDescriptor(d, 64<<10); err != nil {
			return err
		}
		claim, err := store.small(ctx, d)
		if err != nil {
			return fmt.Errorf("fetch signed claim: %w", err)
		}
		if err := verifyClaim(claim, signature, signed, key); err == nil {
			return nil
		} else if len(problems) < maxTold {
			problems = append(problems, err)
		}
	}
	if len(problems) == 0 {
		return fmt.Errorf("%w: the signature manifest of %s holds none", ErrSignature, signed)
	}
	return problems
}

// verifyClaim checks one signature (base64) and that what it is over speaks of the image. The reference in the claim is
// not compared, as in cosign: images move to mirrors.
func verifyClaim(claim []byte, signature string, signed v1.Hash, key crypto.PublicKey) error {
	sig, err := base64.StdEncoding.DecodeString(signature)
	if err != nil {
		return fmt.Errorf("%w: it is not base64", ErrSignature)
	}
	if !verifyBytes(key, claim, sig) {
		return fmt.Errorf("%w: the signature of %s was not made by this key", ErrSignature, signed)
	}
	var c struct {
		Critical struct {
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
			Type string `json:"type"`
		} `json:"critical"`
	}
	if err := json.Unmarshal(claim, &c); err != nil {
		return fmt.Errorf("read signed claim: %w: %w", ErrSignature, err)
	}
	if c.Critical.Type != claimText || c.Critical.Image.Digest != signed.String() {
		return fmt.Errorf("%w: it is for %s, the image is %s", ErrSignature, short(c.Critical.Image.Digest), signed)
	}
	return nil
}

func verifyBytes(key crypto.PublicKey, message, sig []byte) bool {
	sum := sha256.Sum256(message)
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, sum[:], sig)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], sig) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(k, message, sig)
	}
	return false
}
