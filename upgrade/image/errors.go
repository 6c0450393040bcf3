package image

import (
	"errors"
	"strings"
)

// What callers branch on. The errors that wrap them say which image, blob or path.
var (
	// ErrReference says that a reference cannot be understood.
	ErrReference = errors.New("not an image reference")
	// ErrNotFound says that the registry, folder or file does not hold the image.
	ErrNotFound = errors.New("no such image")
	// ErrUnreachable says that a registry did not answer, or stopped answering; trying later may help.
	ErrUnreachable = errors.New("registry out of reach")
	// ErrDenied says that a registry refused to hand out the image.
	ErrDenied = errors.New("registry refused")
	// ErrPlatform says that the image is not for the wanted platform; the text names what is offered.
	ErrPlatform = errors.New("wrong platform")
	// ErrDigest says that content is not what its digest says.
	ErrDigest = errors.New("content does not match its digest")
	// ErrTruncated says that content ended before its announced size.
	ErrTruncated = errors.New("content is truncated")
	// ErrUnsigned says that a signature was demanded and there is none.
	ErrUnsigned = errors.New("image is not signed")
	// ErrSignature says that there are signatures and none is valid under the key.
	ErrSignature = errors.New("no valid signature")
	// ErrMalformed says that a manifest, layer or archive cannot be what it claims to be.
	ErrMalformed = errors.New("malformed image")
	// ErrUnsafe says that a layer tried to reach out of the tree.
	ErrUnsafe = errors.New("unsafe path in image")
	// ErrTooLarge says that an image holds more than it announced, or more than can be meant.
	ErrTooLarge = errors.New("image is too large")
)

// several are errors that were met side by side, told in one line.
type several []error

func (s several) Error() string {
	texts := make([]string, len(s))
	for i, err := range s {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (s several) Unwrap() []error { return s }
