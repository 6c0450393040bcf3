package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
)

const (
	block    = 4096
	maxLinks = 40 // as the kernel
)

// survey is a tree as its layers make it, without its content: what it takes and what it is, known before a byte is written.
type survey struct {
	hash bool // content too, for the identity of a plain tree
	root *node
	own  map[nameIn]bool // what this layer put where
	// used is what the tree takes so far, in blocks of 4 KiB, a file with many names
	// once; peak the most that it took on the way: a layer may replace what one below
	// it brought.
	used, peak int64
}

// nameIn is one that a file or directory has. It is no path: links give one thing many paths.
type nameIn struct {
	dir  *node
	base string
}

type node struct {
	children map[string]*node // of a directory
	names    int
	header   *tar.Header
	size     int64
	sum      string
	small    []byte // of files that are looked into
}

func newSurvey(hash bool) *survey {
	return &survey{hash: hash, root: &node{children: map[string]*node{}}}
}

// add lays one more layer over the tree.
func (s *survey) add(ctx context.Context, r io.Reader, layered bool, b *budget) error {
	s.own = map[nameIn]bool{}
	return eachEntry(ctx, r, layered, b, s.apply)
}

func (s *survey) apply(e *entry) error {
	if e.opaque || e.whiteout {
		return s.hide(e)
	}
	if e.name == "" {
		s.root.header = e.Header
		return nil
	}
	parent, base, err := s.parent(e.name, true)
	if err != nil {
		return err
	}
	n := &node{}
	if old := parent.children[base]; e.Typeflag == tar.TypeDir && old != nil && old.children != nil {
		n = old // the directory that it was
	}
	if s.hash || e.Typeflag == tar.TypeSymlink { // a million headers are a lot of memory
		n.header = e.Header
	}
	switch e.Typeflag {
	case tar.TypeDir:
		if n.children == nil {
			n.children = map[string]*node{}
		}
	case tar.TypeLink:
		dir, last, err := s.parent(e.target, false)
		if err != nil {
			return err
		}
		if n = dir.children[last]; n == nil || n.children != nil {
			return fmt.Errorf("%w: hard link to %q, which is not a file", ErrMalformed, short(e.Linkname))
		}
		if old := parent.children[base]; old != nil && old.holds(dir) {
			return fmt.Errorf("%w: hard link to %q, which goes with the directory in its place", ErrMalformed, short(e.Linkname))
		}
	case tar.TypeReg, tar.TypeGNUSparse:
		if err := s.read(n, e); err != nil {
			return err
		}
	}
	s.put(parent, base, n)
	return nil
}

// put gives n a name, in the place of what has it.
func (s *survey) put(parent *node, base string, n *node) {
	old := parent.children[base]
	parent.children[base] = n
	s.own[nameIn{parent, base}] = true
	if old == n {
		return
	}
	if old != nil {
		s.lose(old)
	}
	if n.names++; n.names == 1 {
		s.used += n.takes()
		s.peak = max(s.peak, s.used)
	}
}

// lose takes a name away.
func (s *survey) lose(n *node) {
	for _, child := range n.children {
		s.lose(child)
	}
	if n.names--; n.names == 0 {
		s.used -= n.takes()
	}
}

// takes is what a file or directory takes on the disk.
func (n *node) takes() int64 {
	if n.children != nil {
		return block
	}
	return (n.size + block - 1) / block * block
}

// holds says whether dir is n or lies below it.
func (n *node) holds(dir *node) bool {
	if n == dir {
		return true
	}
	for _, child := range n.children {
		if child.children != nil && child.holds(dir) {
			return true
		}
	}
	return false
}

// read takes a file's content, as much of it as is asked for.
func (s *survey) read(n *node, e *entry) error {
	sum := sha256.New()
	start := &limitedBuffer{max: 64 << 10}
	var to io.Writer = io.Discard
	switch {
	case s.hash:
		to = io.MultiWriter(sum, start)
	case path.Base(e.name) == "os-release" || path.Base(e.name) == "muster":
		to = start
	}
	size, err := io.Copy(to, e.content)
	if err != nil {
		return err
	}
	n.size = size
	if s.hash {
		n.sum = hex.EncodeToString(sum.Sum(nil))
	}
	if base := path.Base(e.name); base == "os-release" || base == "muster" {
		n.small = start.Bytes()
	}
	return nil
}

func (s *survey) hide(e *entry) error {
	if e.opaque {
		if dir := s.lookup(e.name); dir != nil && dir.children != nil {
			for name := range maps.Clone(dir.children) {
				s.removeLower(dir, name)
			}
		}
		return nil
	}
	// an error means that there is no such directory, and so nothing to hide
	if dir, base, err := s.parent(e.name, false); err == nil {
		s.removeLower(dir, base)
	}
	return nil
}

// removeLower removes what lower layers put at base; what this layer put there or below stays.
func (s *survey) removeLower(dir *node, base string) {
	n := dir.children[base]
	if n == nil {
		return
	}
	for child := range maps.Clone(n.children) {
		s.removeLower(n, child)
	}
	if !s.own[nameIn{dir, base}] && len(n.children) == 0 {
		s.lose(n)
		delete(dir.children, base)
	}
}

func (s *survey) parent(name string, create bool) (*node, string, error) {
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	n, err := s.walk(dir)
	if n == nil && err == nil && create {
		n, err = s.create(dir)
	}
	if err != nil {
		return nil, "", err
	}
	if n == nil || n.children == nil {
		return nil, "", fmt.Errorf("%w: %q is not a directory", ErrMalformed, short(dir))
	}
	return n, base, nil
}

// create makes a directory that no entry names, and those that it is in.
func (s *survey) create(name string) (*node, error) {
	up, base, err := s.parent(name, true)
	if err != nil {
		return nil, err
	}
	if up.children[base] != nil {
		return nil, fmt.Errorf("%w: %q is a link to nothing", ErrMalformed, short(name))
	}
	n := &node{children: map[string]*node{}}
	s.put(up, base, n)
	return n, nil
}

func (s *survey) lookup(name string) *node {
	n, err := s.walk(name)
	if err != nil {
		return nil
	}
	return n
}

// walk resolves name as the kernel does inside of a root: links are followed, ".." ends at the root. It
// returns nil for what is not there.
func (s *survey) walk(name string) (*node, error) {
	trail := []*node{s.root}
	todo := strings.Split(name, "/")
	links := 0
	for len(todo) > 0 {
		part := todo[0]
		todo = todo[1:]
		here := trail[len(trail)-1]
		switch part {
		case "", ".":
			continue
		case "..":
			trail = trail[:max(1, len(trail)-1)]
			continue
		}
		if here.children == nil {
			return nil, fmt.Errorf("%w: %q leads through a file", ErrMalformed, short(name))
		}
		next := here.children[part]
		if next == nil {
			return nil, nil
		}
		if next.header != nil && next.header.Typeflag == tar.TypeSymlink {
			if links++; links > maxLinks || len(todo) > maxName {
				return nil, fmt.Errorf("%w: %q has too many links", ErrMalformed, short(name))
			}
			if strings.HasPrefix(next.header.Linkname, "/") {
				trail = trail[:1]
			}
			todo = append(strings.Split(next.header.Linkname, "/"), todo...)
			continue
		}
		trail = append(trail, next)
	}
	return trail[len(trail)-1], nil
}

// id is the SHA-256 of the sorted file list (docs/OS.md).
func (s *survey) id() string {
	sum := sha256.New()
	s.each(func(name string, n *node) {
		mode, uid, gid, link, content := int64(0o40755), 0, 0, "", n.sum
		var xattrs []string
		if h := n.header; h != nil {
			mode, uid, gid = fileType(h.Typeflag)|h.Mode&0o7777, h.Uid, h.Gid
			switch h.Typeflag {
			case tar.TypeSymlink:
				link, mode = h.Linkname, 0o120777
			case tar.TypeChar, tar.TypeBlock:
				content = fmt.Sprintf("%d:%d", h.Devmajor, h.Devminor)
			}
			for _, key := range slices.Sorted(maps.Keys(h.PAXRecords)) {
				if name, ok := strings.CutPrefix(key, xattrPrefix); ok {
					xattrs = append(xattrs, fmt.Sprintf("%s=%x", name, h.PAXRecords[key]))
				}
			}
		}
		fmt.Fprintf(sum, "%s\x00%o\x00%d:%d\x00%s\x00%s\x00%s\n", name, mode, uid, gid, link, content, strings.Join(xattrs, ","))
	})
	return hex.EncodeToString(sum.Sum(nil))
}

func fileType(flag byte) int64 {
	switch flag {
	case tar.TypeDir:
		return 0o40000
	case tar.TypeChar:
		return 0o20000
	case tar.TypeBlock:
		return 0o60000
	case tar.TypeFifo:
		return 0o10000
	}
	return 0o100000
}

// each calls do for everything below the root, sorted by path.
func (s *survey) each(do func(name string, n *node)) {
	var walk func(prefix string, n *node)
	walk = func(prefix string, n *node) {
		for _, base := range slices.Sorted(maps.Keys(n.children)) {
			do(prefix+base, n.children[base])
			walk(prefix+base+"/", n.children[base])
		}
	}
	walk("", s.root)
}

// release returns what the tree's os-release says.
func (s *survey) release() map[string]string {
	for _, name := range releasePaths {
		if n := s.lookup(name); n != nil && n.small != nil {
			return parseRelease(n.small)
		}
	}
	return nil
}

// limitedBuffer keeps the start of what is written to it.
type limitedBuffer struct {
	bytes.Buffer
	max int
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), b.max-b.Len())])
	return len(p), nil
}
