package image

import (
	"context"
	"crypto"
	"fmt"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const forms = "use oci:NAME[:TAG][@DIGEST], ocifile:PATH (OCI layout folder or tar, or docker-archive tar), " +
	"dir:PATH (root tree) or file:PATH (tar of a root tree)"

// Source is where an image is.
type Source struct {
	scheme, rest string
	remote       name.Reference // of oci:
}

// Parse reads a reference: oci:NAME[:TAG][@DIGEST], ocifile:PATH, dir:PATH or file:PATH. Errors are ErrReference.
//
// A file system image (ext4, squashfs) is not a source: to read one means to let the kernel mount what came from outside.
func Parse(ref string) (Source, error) {
	scheme, rest, ok := strings.Cut(ref, ":")
	s := Source{scheme: scheme, rest: rest}
	if !ok || rest == "" || strings.ContainsRune(rest, 0) {
		return Source{}, fmt.Errorf("image %q: %w: %s", short(ref), ErrReference, forms)
	}
	switch scheme {
	case "ocifile", "dir", "file":
		return s, nil
	case "oci":
		remote, err := name.ParseReference(rest)
		if err != nil {
			return Source{}, fmt.Errorf("image %q: %w: %w", short(ref), ErrReference, err)
		}
		s.remote = remote
		return s, nil
	}
	return Source{}, fmt.Errorf("image %q: %w: %s", short(ref), ErrReference, forms)
}

// String returns the reference.
func (s Source) String() string { return s.scheme + ":" + s.rest }

// Options say how an image is opened.
type Options struct {
	Platform string         // "linux/arm64"; empty is Linux on this machine's processor
	Insecure bool           // speak plain HTTP to the registry and its mirrors where they have no TLS
	Mirrors  []string       // registries (host[:port][/prefix]) that are asked first, in this order
	Key      []byte         // cosign public key (PEM); when set a valid signature is demanded
	Cache    string         // folder for verified blobs, kept and continued; empty: a temporary one until Close
	Progress func(Progress) // told about pulling

	times timing // for tests
}

// DefaultPlatform is Linux on this machine's processor.
func DefaultPlatform() string { return "linux/" + runtime.GOARCH }

// Open finds the image, its manifest for the platform and its signature. Layers are not fetched yet; dir: and file: are
// read once, for their identity.
func (s Source) Open(ctx context.Context, o Options) (*Image, error) {
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	if o.Platform == "" {
		o.Platform = DefaultPlatform()
	}
	i, err := s.open(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("open image %s: %w", s, err)
	}
	return i, nil
}

func (s Source) open(ctx context.Context, o Options) (*Image, error) {
	platform, err := v1.ParsePlatform(o.Platform)
	if err != nil || platform.OS == "" || platform.Architecture == "" {
		return nil, fmt.Errorf("platform %q: %w: it is like linux/arm64", o.Platform, ErrReference)
	}
	var key crypto.PublicKey
	if o.Key != nil {
		if key, err = parseKey(o.Key); err != nil {
			return nil, err
		}
	}
	switch s.scheme {
	case "oci":
		return openRegistry(ctx, s.remote, *platform, key, o)
	case "ocifile":
		return openLayout(ctx, s.rest, *platform, key, o)
	case "dir", "file":
		if key != nil {
			return nil, fmt.Errorf("%w: only oci: and ocifile: images can be", ErrUnsigned)
		}
		return openPlain(ctx, s.scheme, s.rest, *platform)
	}
	return nil, fmt.Errorf("%w: %s", ErrReference, forms)
}
