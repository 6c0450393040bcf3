package image

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// openLayout opens an OCI layout, as a folder or as a tar, or what `docker save` writes.
func openLayout(ctx context.Context, at string, want v1.Platform, key crypto.PublicKey, o Options) (_ *Image, err error) {
	at, err = filepath.Abs(at)
	if err != nil {
		return nil, err
	}
	files, err := openFiles(ctx, at)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, files.close())
		}
	}()
	l := &layout{files: files}
	raw, err := l.read("index.json", maxSmall)
	if err == nil {
		if raw, err = l.pick(raw, want); err != nil {
			return nil, err
		}
		return openBlobs(ctx, l, raw, want, key, o.Progress)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if raw, err = l.archive(); err != nil {
		return nil, err
	}
	return openBlobs(ctx, l, raw, want, key, o.Progress)
}

// layout is an OCI layout or a docker-archive.
type layout struct {
	files files
	// index is what index.json lists.
	index []v1.Descriptor
	// renamed says where blobs lie that are not at blobs/sha256/HEX.
	renamed map[v1.Hash]string
}

// files are where a layout is.
type files interface {
	open(name string) (io.ReadCloser, int64, error)
	close() error
}

func (l *layout) read(name string, limit int64) ([]byte, error) {
	f, size, err := l.files.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, fmt.Errorf("%s: %w: %d bytes, at most %d make sense", name, ErrTooLarge, size, limit)
	}
	return io.ReadAll(f)
}

// pick returns the manifest or index that is meant: the only one that is an image for the platform.
func (l *layout) pick(raw []byte, want v1.Platform) ([]byte, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("read index.json: %w: %w", ErrMalformed, err)
	}
	l.index = index.Manifests
	var found []v1.Descriptor
	var offered []string
	for _, d := range index.Manifests {
		switch {
		case isSignature(d):
		case d.Platform != nil && !offers(d.Platform.String(), want):
			offered = append(offered, d.Platform.String())
		default:
			found = append(found, d)
		}
	}
	switch len(found) {
	case 1:
		if err := checkDescriptor(found[0], maxSmall); err != nil {
			return nil, err
		}
		return l.small(context.Background(), found[0])
	case 0:
		if len(offered) == 0 {
			return nil, fmt.Errorf("%w: the layout lists no image", ErrNotFound)
		}
		return nil, fmt.Errorf("%w: wanted is %s, offered is %s", ErrPlatform, want.String(), short(strings.Join(offered, ", ")))
	}
	return nil, fmt.Errorf("%w: the layout lists %d images for %s; it must be one", ErrMalformed, len(found), want.String())
}

const refName = "org.opencontainers.image.ref.name"

// isSignature knows signatures as `cosign save` (kind) and as copying tools (the tag) write them.
func isSignature(d v1.Descriptor) bool {
	tag := d.Annotations[refName]
	return d.Annotations["kind"] == signatureKind || strings.HasPrefix(path.Base(tag), "sha256-") && strings.HasSuffix(tag, ".sig") ||
		strings.Contains(tag, ":sha256-") && strings.HasSuffix(tag, ".sig")
}

func (l *layout) signatures(ctx context.Context, signed v1.Hash) ([][]byte, error) {
	var all [][]byte
	for _, d := range l.index {
		if !isSignature(d) || d.Annotations["kind"] != signatureKind && !strings.HasSuffix(d.Annotations[refName], signatureTag(signed)) {
			continue
		}
		if err := checkDescriptor(d, maxSmall); err != nil {
			return nil, err
		}
		raw, err := l.small(ctx, d)
		if err != nil {
			return nil, err
		}
		all = append(all, raw)
	}
	return all, nil
}

func (l *layout) name(h v1.Hash) string {
	if name := l.renamed[h]; name != "" {
		return name
	}
	return "blobs/sha256/" + h.Hex
}

func (l *layout) open(d v1.Descriptor) (io.ReadCloser, error) {
	f, size, err := l.files.open(l.name(d.Digest))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("blob %s: %w: the layout does not hold it", d.Digest, ErrNotFound)
	case err != nil:
		return nil, err
	case size < d.Size:
		return nil, errors.Join(fmt.Errorf("blob %s: %w: %d of %d bytes", d.Digest, ErrTruncated, size, d.Size), f.Close())
	case size > d.Size:
		return nil, errors.Join(fmt.Errorf("blob %s: %w: %d bytes, announced were %d", d.Digest, ErrDigest, size, d.Size), f.Close())
	}
	return f, nil
}

func (l *layout) small(_ context.Context, d v1.Descriptor) ([]byte, error) {
	f, err := l.open(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	return data, checked(d, data)
}

// pull verifies: the blobs are at hand.
func (l *layout) pull(ctx context.Context, all []v1.Descriptor, progress func(Progress)) error {
	var done, total int64
	for _, d := range all {
		total += d.Size
	}
	for _, d := range all {
		f, err := l.open(d)
		if err != nil {
			return err
		}
		sum := sha256.New()
		_, err = io.Copy(sum, aliveReader{contextReader{ctx, f}, func() {}})
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("read blob %s: %w", d.Digest, err)
		}
		if err := checkSum("blob "+d.Digest.String(), sum, d.Digest); err != nil {
			return err
		}
		done += d.Size
		progress(Progress{"verify", done, total})
	}
	return nil
}

func (l *layout) close() error { return l.files.close() }

// archive reads the older form of `docker save`. It has no manifest: one is made of what is there, with layers as they lie
// in the archive, so that the same archive is the same image everywhere.
func (l *layout) archive() ([]byte, error) {
	raw, err := l.read("manifest.json", maxSmall)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: neither an OCI layout (index.json) nor a docker-archive (manifest.json)", ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	var saved []struct {
		Config string
		Layers []string
	}
	if err := json.Unmarshal(raw, &saved); err != nil {
		return nil, fmt.Errorf("read manifest.json: %w: %w", ErrMalformed, err)
	}
	if len(saved) != 1 {
		return nil, fmt.Errorf("%w: the archive holds %d images; it must be one", ErrMalformed, len(saved))
	}
	config, err := l.read(saved[0].Config, maxSmall)
	if err != nil {
		return nil, fmt.Errorf("image configuration: %w", err)
	}
	c, err := v1.ParseConfigFile(bytes.NewReader(config))
	if err != nil {
		return nil, fmt.Errorf("read image configuration: %w: %w", ErrMalformed, err)
	}
	if len(c.RootFS.DiffIDs) != len(saved[0].Layers) {
		return nil, fmt.Errorf("%w: %d layers, and digests for %d", ErrMalformed, len(saved[0].Layers), len(c.RootFS.DiffIDs))
	}
	l.renamed = map[v1.Hash]string{sha256Of(config): saved[0].Config}
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: v1.Descriptor{
		MediaType: types.OCIConfigJSON, Size: int64(len(config)), Digest: sha256Of(config),
	}}
	for n, name := range saved[0].Layers {
		d, err := l.savedLayer(name, c.RootFS.DiffIDs[n])
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", n+1, err)
		}
		l.renamed[d.Digest] = name
		m.Layers = append(m.Layers, d)
	}
	return json.Marshal(m)
}

// savedLayer describes a layer of a docker-archive: most are plain tars, whose digest is known already.
func (l *layout) savedLayer(name string, diffID v1.Hash) (v1.Descriptor, error) {
	f, size, err := l.files.open(name)
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer f.Close()
	b := bufio.NewReader(f)
	start, err := b.Peek(len(xzMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return v1.Descriptor{}, err
	}
	if !compressed(start) {
		return v1.Descriptor{MediaType: types.OCIUncompressedLayer, Size: size, Digest: diffID}, nil
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, b); err != nil {
		return v1.Descriptor{}, err
	}
	digest := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum.Sum(nil))}
	return v1.Descriptor{MediaType: types.OCILayer, Size: size, Digest: digest}, nil
}
