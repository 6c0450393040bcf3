package image

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	// maxSmall bounds what is read into memory: manifests, configurations, signatures. Registries refuse larger manifests.
	maxSmall = 4 << 20
	// maxNesting is how many indexes may lie in each other.
	maxNesting = 3

	labelVersion = "org.opencontainers.image.version"
	// annotationBytes of a layer is what its files take, in bytes as Bytes counts them. Pack announces it, so that space can be
	// checked before anything is fetched. A label of the image would be inherited by what others build on it.
	annotationBytes = "io.github.muster-edge.bytes"
)

func sha256Of(data []byte) v1.Hash {
	sum := sha256.Sum256(data)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// openBlobs opens the image whose manifest or index is raw. What it costs to be sure comes first: the platform, then the
// signature, then the configuration.
func openBlobs(ctx context.Context, store blobs, raw []byte, want v1.Platform, key crypto.PublicKey, progress func(Progress)) (*Image, error) {
	var chain []v1.Hash // what a signature may be of: the indexes that lead here, and the manifest
	for len(chain) < maxNesting {
		chain = append(chain, sha256Of(raw))
		kind, err := mediaType(raw)
		if err != nil {
			return nil, err
		}
		if kind.IsImage() {
			if key != nil {
				if err := demandSignature(ctx, store, chain, key); err != nil {
					return nil, err
				}
			}
			return openManifest(ctx, store, raw, want, progress)
		}
		d, err := choose(raw, want)
		if err != nil {
			return nil, err
		}
		if raw, err = store.small(ctx, d); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: more than %d indexes in each other", ErrMalformed, maxNesting)
}

// mediaType says whether raw is a manifest or an index by what is in it, and refuses what claims to be both.
func mediaType(raw []byte) (types.MediaType, error) {
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return "", fmt.Errorf("read manifest: %w: %w", ErrMalformed, err)
	}
	x, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return "", fmt.Errorf("read index: %w: %w", ErrMalformed, err)
	}
	image, index := len(m.Layers) > 0 || m.Config.Digest.Hex != "", len(x.Manifests) > 0
	switch {
	case m.SchemaVersion != 2 || image == index:
		return "", fmt.Errorf("%w: neither an image manifest nor an index (schema %d, %q)", ErrMalformed, m.SchemaVersion, short(string(m.MediaType)))
	case image:
		return types.OCIManifestSchema1, nil
	}
	return types.OCIImageIndex, nil
}

// choose returns the entry of an index for a platform.
func choose(raw []byte, want v1.Platform) (v1.Descriptor, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("read index: %w: %w", ErrMalformed, err)
	}
	var offered []string
	for _, d := range index.Manifests {
		if d.Platform == nil || d.Platform.OS == "unknown" {
			continue // attestations and signatures
		}
		if offers(d.Platform.String(), want) {
			return d, checkDescriptor(d, maxSmall)
		}
		offered = append(offered, d.Platform.String())
	}
	slices.Sort(offered)
	if len(offered) == 0 {
		offered = []string{"nothing that names a platform"}
	}
	return v1.Descriptor{}, fmt.Errorf("%w: wanted is %s, offered is %s", ErrPlatform, want.String(), short(strings.Join(slices.Compact(offered), ", ")))
}

// offers says whether a platform will do. Who does not name a variant takes any: arm64 is offered as arm64/v8 as often as not.
func offers(offered string, want v1.Platform) bool {
	p, err := v1.ParsePlatform(offered)
	return err == nil && p.OS == want.OS && p.Architecture == want.Architecture && (want.Variant == "" || p.Variant == want.Variant)
}

func checkDescriptor(d v1.Descriptor, limit int64) error {
	// The hex becomes a file's name.
	if d.Digest.Algorithm != "sha256" || !isHex(d.Digest.Hex) {
		return fmt.Errorf("%w: digest %q", ErrMalformed, short(d.Digest.String()))
	}
	if d.Size < 0 {
		return fmt.Errorf("%w: blob %s of %d bytes", ErrMalformed, d.Digest, d.Size)
	}
	if d.Size > limit {
		return fmt.Errorf("%w: %s announces %d bytes, at most %d make sense", ErrTooLarge, d.Digest, d.Size, limit)
	}
	return nil
}

func isHex(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

func openManifest(ctx context.Context, store blobs, raw []byte, want v1.Platform, progress func(Progress)) (*Image, error) {
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w: %w", ErrMalformed, err)
	}
	if err := checkDescriptor(m.Config, maxSmall); err != nil {
		return nil, err
	}
	data, err := store.small(ctx, m.Config)
	if err != nil {
		return nil, fmt.Errorf("image configuration: %w", err)
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read image configuration: %w: %w", ErrMalformed, err)
	}
	if config.Platform() == nil || !offers(config.Platform().String(), want) {
		offered := "nothing that names a platform"
		if config.Platform() != nil {
			offered = short(config.Platform().String())
		}
		return nil, fmt.Errorf("%w: wanted is %s, offered is %s", ErrPlatform, want.String(), offered)
	}
	if len(m.Layers) == 0 || len(m.Layers) != len(config.RootFS.DiffIDs) {
		return nil, fmt.Errorf("%w: %d layers, and digests for %d", ErrMalformed, len(m.Layers), len(config.RootFS.DiffIDs))
	}
	i := &Image{blobs: store, layered: true, progress: progress, identity: Identity{
		ID: sha256Of(raw).Hex, Version: cleanVersion(config.Config.Labels[labelVersion]), Platform: want.String(),
	}}
	var packed, announced int64
	for n, d := range m.Layers {
		diffID := config.RootFS.DiffIDs[n]
		if err := checkDescriptor(d, 1<<40); err != nil {
			return nil, err
		}
		if err := checkDescriptor(v1.Descriptor{Digest: diffID}, 0); err != nil {
			return nil, err
		}
		packed += d.Size
		announced = plus(announced, d.Annotations[annotationBytes])
		i.layers = append(i.layers, layer{blob: d, diffID: diffID})
	}
	i.bytes, i.limit = packed*usualGrowth, packed*maxGrowth+tarRoom
	if announced > 0 && announced < i.limit {
		i.bytes, i.limit = announced, announced
		i.known = i.identity.Version != ""
	}
	return i, nil
}

// plus adds what a layer announces to what those before it do; -1 is for layers of which one announces nothing.
func plus(sum int64, annotation string) int64 {
	bytes, err := strconv.ParseInt(annotation, 10, 64)
	if sum < 0 || err != nil || bytes < 0 || sum+bytes < sum {
		return -1
	}
	return sum + bytes
}

// checked refuses content that is not what its descriptor says.
func checked(d v1.Descriptor, data []byte) error {
	if int64(len(data)) < d.Size {
		return fmt.Errorf("blob %s: %w: %d of %d bytes", d.Digest, ErrTruncated, len(data), d.Size)
	}
	if sha256Of(data) != d.Digest || int64(len(data)) != d.Size {
		return fmt.Errorf("blob %s: %w: %d bytes, %s", d.Digest, ErrDigest, len(data), sha256Of(data))
	}
	return nil
}
