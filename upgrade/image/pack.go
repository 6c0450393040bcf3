package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
)

// PackOptions say what Pack makes of a tree.
type PackOptions struct {
	Root     string            // the tree
	Platform string            // empty is Linux on this machine's processor
	Version  string            // what people see; empty is IMAGE_VERSION of the tree's os-release
	Labels   map[string]string // more labels of the image's configuration
	Out      string            // OCI layout folder; an image for the same platform in it is replaced
	Tar      string            // OCI archive of the same image; empty is none
}

// Pack makes an image of one layer of a tree and returns the digest of its manifest ("sha256:…"). The same tree gives the
// same digest: entries are sorted, owners are numbers, and no time is later than SOURCE_DATE_EPOCH (seconds since 1970; when
// it is not set, 0). Sockets are left out, and so is what is mounted inside the tree.
func Pack(ctx context.Context, o PackOptions) (digest string, err error) {
	digest, err = pack(ctx, o)
	if err != nil {
		return "", fmt.Errorf("pack %s: %w", o.Root, err)
	}
	return digest, nil
}

func pack(ctx context.Context, o PackOptions) (string, error) {
	if o.Root == "" || o.Out == "" {
		return "", errors.New("a tree and a folder to write to are needed")
	}
	if o.Platform == "" {
		o.Platform = DefaultPlatform()
	}
	platform, err := v1.ParsePlatform(o.Platform)
	if err != nil || platform.OS == "" || platform.Architecture == "" {
		return "", fmt.Errorf("platform %q: %w: it is like linux/arm64", o.Platform, ErrReference)
	}
	epoch, err := sourceDate()
	if err != nil {
		return "", err
	}
	if o.Version == "" {
		release, err := releaseOf(o.Root)
		if err != nil {
			return "", fmt.Errorf("read os-release: %w", err)
		}
		o.Version = release["IMAGE_VERSION"]
	}
	for _, dir := range []string{o.Out, filepath.Join(o.Out, "blobs", "sha256")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
	}
	w := blobWriter{filepath.Join(o.Out, "blobs", "sha256")}
	layer, diffID, size, err := packLayer(ctx, w, o.Root, epoch)
	if err != nil {
		return "", err
	}
	layer.Annotations = map[string]string{annotationBytes: strconv.FormatInt(size, 10)}
	labels := map[string]string{}
	if o.Version != "" {
		labels[labelVersion] = o.Version
	}
	maps.Copy(labels, o.Labels)
	config, err := w.json(types.OCIConfigJSON, v1.ConfigFile{
		Created: v1.Time{Time: epoch}, OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant,
		Config: v1.Config{Labels: labels}, RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{diffID}},
		History: []v1.History{{Created: v1.Time{Time: epoch}, CreatedBy: "muster image pack"}},
	})
	if err != nil {
		return "", err
	}
	manifest, err := w.json(types.OCIManifestSchema1, v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: config, Layers: []v1.Descriptor{layer},
	})
	if err != nil {
		return "", err
	}
	manifest.Platform = platform
	if o.Version != "" {
		manifest.Annotations = map[string]string{refName: o.Version}
	}
	if err := writeLayout(o.Out, manifest); err != nil {
		return "", err
	}
	if o.Tar != "" {
		if err := writeArchive(ctx, o.Tar, o.Out, epoch, manifest, config, layer); err != nil {
			return "", fmt.Errorf("write %s: %w", o.Tar, err)
		}
	}
	return manifest.Digest.String(), nil
}

// sourceDate is https://reproducible-builds.org/specs/source-date-epoch/.
func sourceDate() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH %q: it is a number of seconds since 1970", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// packLayer writes the tree as a compressed layer and returns what is in it, in bytes as Bytes counts them.
func packLayer(ctx context.Context, w blobWriter, root string, epoch time.Time) (d v1.Descriptor, diffID v1.Hash, size int64, err error) {
	b, err := w.create()
	if err != nil {
		return d, diffID, 0, err
	}
	defer b.discard()
	z := gzip.NewWriter(b)
	sum := sha256.New()
	r, pipe := io.Pipe()
	done := make(chan error, 1)
	s := newSurvey(false)
	go func() {
		err := s.add(ctx, r, true, &budget{bytes: 1 << 50, entries: maxEntries})
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		r.CloseWithError(err)
		done <- err
	}()
	err = writeTree(ctx, io.MultiWriter(z, sum, pipe), root, epoch, true)
	pipe.CloseWithError(err)
	if err = errors.Join(err, <-done); err != nil {
		return d, diffID, 0, err
	}
	if err := z.Close(); err != nil {
		return d, diffID, 0, err
	}
	d, err = b.commit(types.OCILayer)
	return d, v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum.Sum(nil))}, s.peak, err
}

// blobWriter puts blobs into a layout: complete, on the disk, and then by their name.
type blobWriter struct{ dir string }

type newBlob struct {
	f   *os.File
	sum hash.Hash
	n   int64
	dir string
}

func (w blobWriter) create() (*newBlob, error) {
	f, err := os.CreateTemp(w.dir, ".new-")
	if err != nil {
		return nil, err
	}
	return &newBlob{f: f, sum: sha256.New(), dir: w.dir}, nil
}

func (b *newBlob) Write(p []byte) (int, error) {
	n, err := b.f.Write(p)
	b.sum.Write(p[:n])
	b.n += int64(n)
	return n, err
}

func (b *newBlob) discard() {
	_ = b.f.Close()           // a second close after commit
	_ = os.Remove(b.f.Name()) // gone after commit
}

func (b *newBlob) commit(kind types.MediaType) (v1.Descriptor, error) {
	d := v1.Descriptor{MediaType: kind, Size: b.n, Digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(b.sum.Sum(nil))}}
	if err := errors.Join(b.f.Chmod(0o644), b.f.Sync(), b.f.Close()); err != nil {
		return d, err
	}
	if err := os.Rename(b.f.Name(), filepath.Join(b.dir, d.Digest.Hex)); err != nil {
		return d, err
	}
	return d, syncDir(b.dir)
}

func (w blobWriter) json(kind types.MediaType, what any) (v1.Descriptor, error) {
	data, err := json.Marshal(what)
	if err != nil {
		return v1.Descriptor{}, err
	}
	b, err := w.create()
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer b.discard()
	if _, err := b.Write(data); err != nil {
		return v1.Descriptor{}, err
	}
	return b.commit(kind)
}

const layoutFile = `{"imageLayoutVersion":"1.0.0"}`

// writeLayout lists the image; images for other platforms stay listed. The index comes last and by rename: before it, the
// folder holds what it held.
func writeLayout(out string, manifest v1.Descriptor) error {
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	raw, err := os.ReadFile(filepath.Join(out, "index.json"))
	if err == nil {
		if err := json.Unmarshal(raw, &index); err != nil {
			return fmt.Errorf("read %s: %w: %w", filepath.Join(out, "index.json"), ErrMalformed, err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d v1.Descriptor) bool {
		return d.Platform != nil && d.Platform.Equals(*manifest.Platform)
	})
	index.Manifests = append(index.Manifests, manifest)
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	if err := replace(filepath.Join(out, "oci-layout"), []byte(layoutFile)); err != nil {
		return err
	}
	return replace(filepath.Join(out, "index.json"), data)
}

func replace(path string, data []byte) error {
	b, err := blobWriter{filepath.Dir(path)}.create()
	if err != nil {
		return err
	}
	defer b.discard()
	if _, err := b.Write(data); err != nil {
		return err
	}
	if err := errors.Join(b.f.Chmod(0o644), b.f.Sync(), b.f.Close()); err != nil {
		return err
	}
	if err := os.Rename(b.f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// writeArchive writes a layout of this one image as a tar. The manifest.json of a docker-archive is in it as well, for
// `docker load`.
func writeArchive(ctx context.Context, path, out string, epoch time.Time, manifest, config, layer v1.Descriptor) error {
	index, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{manifest}})
	if err != nil {
		return err
	}
	name := func(d v1.Descriptor) string { return "blobs/sha256/" + d.Digest.Hex }
	saved, err := json.Marshal([]map[string]any{{"Config": name(config), "Layers": []string{name(layer)}}})
	if err != nil {
		return err
	}
	b, err := blobWriter{filepath.Dir(path)}.create()
	if err != nil {
		return err
	}
	defer b.discard()
	t := tar.NewWriter(b)
	add := func(name string, size int64, from io.Reader) error {
		if err := t.WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o644, ModTime: epoch, Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		_, err := io.Copy(t, contextReader{ctx, from})
		return err
	}
	small := []struct {
		name string
		data []byte
	}{{"oci-layout", []byte(layoutFile)}, {"index.json", index}, {"manifest.json", saved}}
	for _, s := range small {
		if err := add(s.name, int64(len(s.data)), bytes.NewReader(s.data)); err != nil {
			return err
		}
	}
	for _, d := range []v1.Descriptor{manifest, config, layer} {
		f, err := os.Open(filepath.Join(out, name(d)))
		if err != nil {
			return err
		}
		if err := errors.Join(add(name(d), d.Size, f), f.Close()); err != nil {
			return err
		}
	}
	if err := errors.Join(t.Close(), b.f.Chmod(0o644), b.f.Sync(), b.f.Close()); err != nil {
		return err
	}
	if err := os.Rename(b.f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}
