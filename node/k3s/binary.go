package k3s

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Source says where K3s comes from: the image first, then a configured path,
// then a download.
type Source struct {
	// Path is k3s.binary.
	Path string
	// URL and SHA256 (hex) are k3s.url and k3s.sha256; a download without a
	// checksum is refused.
	URL, SHA256 string
}

// wellKnown are the places where images and K3s's own installer put it.
var wellKnown = []string{"/usr/bin/k3s", "/usr/local/bin/k3s"}

// wrongPause is before a URL that serves a wrong binary is asked again: the node
// is woken many times a minute, and a binary is much for a thin line.
const wrongPause = time.Minute

// versionTimeout bounds the question for a binary's version. K3s unpacks itself when it is first asked: on a slow disk that takes long.
const versionTimeout = 2 * time.Minute

// binaries finds K3s and knows its version. It is for one caller at a time.
type binaries struct {
	source Source
	// dir keeps downloads; root is prepended to the well-known places.
	dir, root string
	download  downloader

	asked   fileIdentity
	answers string

	wrong      error // why what was downloaded is not what is wanted
	wrongUntil time.Time
}

// fileIdentity tells whether a file is still the one that was looked at.
type fileIdentity struct {
	path  string
	size  int64
	mtime time.Time
}

// find returns the path of a K3s binary and downloads it where there is none
// yet. A download that is interrupted or whose checksum is wrong leaves nothing
// behind.
func (b *binaries) find(ctx context.Context) (string, error) {
	var candidates []string
	for _, path := range wellKnown {
		candidates = append(candidates, b.root+path)
	}
	if b.source.Path != "" {
		candidates = append(candidates, b.source.Path)
	}
	for _, path := range candidates {
		if executable(path) {
			return path, nil
		}
	}
	if b.source.URL == "" {
		return "", fmt.Errorf("%w: looked at %s; put one there or set k3s.url and k3s.sha256", ErrNoBinary, strings.Join(candidates, ", "))
	}
	want, err := hex.DecodeString(b.source.SHA256)
	if err != nil || len(want) != sha256.Size {
		return "", fmt.Errorf("%w: k3s.url needs k3s.sha256, 64 hexadecimal digits", ErrNoBinary)
	}
	// The name is made of the checksum, so that what is there is what is wanted.
	path := filepath.Join(b.dir, fmt.Sprintf("k3s-%x", want[:8]))
	if executable(path) {
		return path, nil
	}
	if time.Now().Before(b.wrongUntil) {
		return "", b.wrong
	}
	if err := b.download.fetch(ctx, b.source.URL, want, path); err != nil {
		err = fmt.Errorf("download k3s from %s: %w", redacted(b.source.URL), err)
		if errors.Is(err, errChecksum) {
			b.wrong, b.wrongUntil = err, time.Now().Add(wrongPause)
		}
		return "", err
	}
	return path, nil
}

// redacted keeps a password in a URL out of errors.
func redacted(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "k3s.url"
	}
	return u.Redacted()
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// version asks the binary, which prints "k3s version v1.36.3+k3s1 (abcdef)", once
// for as long as the file is the same.
func (b *binaries) version(ctx context.Context, path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("ask k3s for its version: %w", err)
	}
	file := fileIdentity{path: path, size: info.Size(), mtime: info.ModTime()}
	if b.asked == file {
		return b.answers, nil
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env = environment(os.Environ(), nil)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", path, errors.Join(err, context.Cause(ctx)))
	}
	fields := strings.Fields(string(out))
	if len(fields) < 3 || fields[0] != "k3s" || fields[1] != "version" {
		return "", fmt.Errorf("ask %s for its version: it is not k3s", path)
	}
	b.asked, b.answers = file, fields[2]
	return b.answers, nil
}
