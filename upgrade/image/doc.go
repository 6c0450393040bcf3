// Package image gets the image of a machine from where it is, proves that it is the one that was meant, and lays it out
// as a tree.
//
// An image is named by a reference (Parse), opened (Source.Open: manifest, platform, signature), fetched into a cache of
// verified blobs (Image.Pull) and unpacked (Image.Unpack). Check says what a tree lacks to be bootable, and Pack turns a
// tree into an image.
//
// Nothing is believed: every blob is checked against its digest before it is used, every layer against the digest of its
// content while it is unpacked, and every path is resolved by the kernel inside the target (openat2, RESOLVE_IN_ROOT), so
// that no name, link or whiteout reaches out of it.
package image
