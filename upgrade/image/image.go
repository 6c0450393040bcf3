package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"unicode"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Identity is what an image is known by.
type Identity struct {
	// ID is the digest of the manifest for the platform, 64 hex digits; for a plain tree the SHA-256 of its file list.
	ID string `json:"id"`
	// Version is what people see: the image's label, else IMAGE_VERSION of its os-release, which for oci: and ocifile: is
	// known after Pull.
	Version  string `json:"version"`
	Platform string `json:"platform"` // "linux/amd64"
	// FeatureLevel is what the muster in the image knows; 0 when the image does not say, and before it is in a slot.
	FeatureLevel int `json:"feature_level,omitempty"`
}

// Progress is how far one step is; Done and Total are bytes, Total is 0 while it is not known.
type Progress struct {
	Step        string
	Done, Total int64
}

// Image is an opened image. Its methods must not be called concurrently.
type Image struct {
	identity Identity
	bytes    int64 // what its files take
	known    bool  // bytes and identity are all that reading through could tell
	limit    int64 // of what may come out of its layers
	layers   []layer
	layered  bool // whiteouts are whiteouts
	blobs    blobs
	progress func(Progress)
}

// layer is one tar of an image.
type layer struct {
	blob   v1.Descriptor                                    // as stored; empty in a plain tree
	diffID v1.Hash                                          // of the tar itself; empty in a plain tree
	open   func(ctx context.Context) (io.ReadCloser, error) // of a plain tree
}

// blobs is where the blobs of an image are.
type blobs interface {
	// small returns a blob that is not a layer, verified.
	small(ctx context.Context, d v1.Descriptor) ([]byte, error)
	// pull makes sure that all blobs are at hand and verified.
	pull(ctx context.Context, all []v1.Descriptor, progress func(Progress)) error
	// open opens a blob that was pulled.
	open(d v1.Descriptor) (io.ReadCloser, error)
	// signatures returns the manifests that may hold signatures of a digest.
	signatures(ctx context.Context, signed v1.Hash) ([][]byte, error)
	close() error
}

const (
	// An image that announces nothing may grow hundredfold: gzip could a thousandfold, root trees do three- to fivefold.
	maxGrowth   = 100
	usualGrowth = 3
	tarRoom     = 64 << 20

	// headerBytes is what a tar may take for an entry beside its content: header, padding, attributes.
	headerBytes = 64 << 10
)

// Identity returns what the image is known by.
func (i *Image) Identity() Identity { return i.identity }

// Bytes returns what the files of the image take when they are unpacked, in blocks of 4 KiB: exact for dir: and file:, for
// what Pack made, and for the others after Pull; three times the download before. Where a layer replaces or removes what
// one below it brought it is the most that is taken on the way, or as much as all layers announce.
func (i *Image) Bytes() int64 { return i.bytes }

// Pull brings every blob of the image into the cache, and reads through them once unless the image says what it takes and
// its version: afterwards Bytes is the room that unpacking it needs. Nothing is pulled twice.
func (i *Image) Pull(ctx context.Context) error {
	if i.known && i.blobs == nil {
		return nil
	}
	var all []v1.Descriptor
	for _, l := range i.layers {
		all = append(all, l.blob)
	}
	if err := i.blobs.pull(ctx, all, i.progress); err != nil {
		return err
	}
	if i.known {
		return nil
	}
	i.progress(Progress{Step: "read through"})
	s := newSurvey(false)
	if err := i.eachLayer(ctx, s.add); err != nil {
		return err
	}
	i.learn(s)
	return nil
}

// learn takes what only the content says.
func (i *Image) learn(s *survey) {
	i.bytes, i.known = s.peak, true
	if i.identity.Version == "" {
		i.identity.Version = cleanVersion(s.release()["IMAGE_VERSION"])
	}
}

// cleanVersion makes of a version what can be shown on a terminal and in a boot menu.
func cleanVersion(version string) string {
	runes := []rune(version)
	for i, r := range runes {
		if !unicode.IsPrint(r) {
			runes[i] = '_'
		}
	}
	return string(runes[:min(len(runes), 100)])
}

// Unpack lays the image out in dir, which must be empty or not exist; lost+found may be in it. It pulls what is missing
// first. When it fails, dir is empty again. It does not sync: who makes a file system of the tree does.
func (i *Image) Unpack(ctx context.Context, dir string, progress func(Progress)) (err error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	if err := i.Pull(ctx); err != nil {
		return err
	}
	made, err := makeEmpty(dir)
	if err != nil {
		return fmt.Errorf("unpack image into %s: %w", dir, err)
	}
	defer func() {
		if err == nil {
			return
		}
		err = fmt.Errorf("unpack image into %s: %w", dir, err)
		if cleaned := emptied(dir); cleaned != nil {
			err = errors.Join(err, fmt.Errorf("clear %s: %w", dir, cleaned))
		} else if made {
			_ = os.Remove(dir) // an empty directory does no harm
		}
	}()
	var done, told int64
	a, err := newApplier(dir, func(n int) {
		if done += int64(n); done-told >= 1<<20 {
			told = done
			progress(Progress{"unpack", min(done, i.bytes), i.bytes})
		}
	})
	if err != nil {
		return err
	}
	defer a.close()
	if err := i.eachLayer(ctx, a.add); err != nil {
		return err
	}
	if err := a.finish(); err != nil {
		return err
	}
	progress(Progress{"unpack", i.bytes, i.bytes})
	return nil
}

// makeEmpty makes dir, or says that it is in use.
func makeEmpty(dir string) (made bool, err error) {
	found, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return true, os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return false, err
	}
	for _, d := range found {
		if d.Name() != lostAndFound {
			return false, fmt.Errorf("it is not empty: %s is in it", d.Name())
		}
	}
	return false, nil
}

type addLayer func(ctx context.Context, r io.Reader, layered bool, b *budget) error

// eachLayer hands the layers to add, lowest first, and checks what came out of them.
func (i *Image) eachLayer(ctx context.Context, add addLayer) error {
	b := &budget{bytes: i.limit, entries: maxEntries}
	for n, l := range i.layers {
		err := i.oneLayer(ctx, l, add, b)
		if errors.Is(err, ErrTooLarge) {
			err = fmt.Errorf("%w (at most %d MiB may come out of it: what it announces, or %d times its download)", err, i.limit>>20, maxGrowth)
		}
		if err != nil && len(i.layers) > 1 {
			err = fmt.Errorf("layer %d of %d: %w", n+1, len(i.layers), err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (i *Image) oneLayer(ctx context.Context, l layer, add addLayer, b *budget) (err error) {
	raw, err := i.openLayer(ctx, l)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, raw.Close()) }()
	plain, err := decompress(raw)
	if err != nil {
		return err
	}
	defer plain.Close()
	bounded := &boundedReader{plain, b.bytes + int64(b.entries)*1024 + headerBytes}
	sum := sha256.New()
	hashed := beside(bounded, sum)
	defer hashed.Close()
	if err := add(ctx, hashed, i.layered, b); err != nil {
		return err
	}
	// What follows the end of the archive belongs to the digest too.
	if _, err := io.Copy(io.Discard, contextReader{ctx, hashed}); err != nil {
		return unreadable(ctx, err)
	}
	hashed.Close()
	return checkSum("content of the layer", sum, l.diffID)
}

func (i *Image) openLayer(ctx context.Context, l layer) (io.ReadCloser, error) {
	if l.open != nil {
		return l.open(ctx)
	}
	return i.blobs.open(l.blob)
}

func checkSum(what string, sum hash.Hash, want v1.Hash) error {
	if got := hex.EncodeToString(sum.Sum(nil)); want.Hex != "" && got != want.Hex {
		return fmt.Errorf("%s: %w: it is sha256:%s, announced was %s", what, ErrDigest, got, want)
	}
	return nil
}

// Close frees what Open took; without Options.Cache that is every blob.
func (i *Image) Close() error {
	if i.blobs == nil {
		return nil
	}
	return i.blobs.close()
}
