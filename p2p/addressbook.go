package p2p

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

const (
	addressBookVersion = 1
	maxBookPeers       = 1024
	maxBookAddrs       = 8
	maxBookFile        = 1 << 20 // bytes
)

// addressBook remembers where admitted peers were, so that a node finds its site
// again after a power cut with no other help. It is a cache: losing it loses
// nothing that discovery could not find again.
type addressBook struct {
	path string // "" keeps it in memory

	mu    sync.Mutex
	peers []peer.AddrInfo // most recently admitted first
	dirty bool
}

// openAddressBook reads the book at path. One that cannot be read is started anew.
func openAddressBook(path string, log *slog.Logger) *addressBook {
	b := &addressBook{path: path}
	if path == "" {
		return b
	}
	raw, err := readBounded(path, maxBookFile)
	if err == nil {
		b.peers, err = parseAddressBook(raw)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		log.Warn("address book starts anew", "path", path, "error", err)
	}
	return b
}

// put notes where a peer is. No addresses leave the old ones.
func (b *addressBook) put(info peer.AddrInfo) {
	b.mu.Lock()
	defer b.mu.Unlock()
	info.Addrs = boundAddrs(info.Addrs)
	i := slices.IndexFunc(b.peers, func(have peer.AddrInfo) bool { return have.ID == info.ID })
	if i >= 0 {
		if len(info.Addrs) == 0 || sameAddrs(b.peers[i].Addrs, info.Addrs) {
			return
		}
		b.peers = slices.Delete(b.peers, i, i+1)
	}
	b.peers = slices.Insert(b.peers, 0, info)
	b.peers = b.peers[:min(len(b.peers), maxBookPeers)]
	b.dirty = true
}

// drop forgets a peer.
func (b *addressBook) drop(p peer.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(b.peers)
	b.peers = slices.DeleteFunc(b.peers, func(have peer.AddrInfo) bool { return have.ID == p })
	b.dirty = b.dirty || len(b.peers) != n
}

// all returns the peers, most recently admitted first.
func (b *addressBook) all() []peer.AddrInfo {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.peers)
}

// save writes what changed.
func (b *addressBook) save() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.dirty || b.path == "" {
		return nil
	}
	raw, err := encodeAddressBook(b.peers)
	if err == nil {
		err = WriteFile(b.path, raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("save address book: %w", err)
	}
	b.dirty = false
	return nil
}

// bookFile is the book on disk.
type bookFile struct {
	Version int        `json:"version"`
	Peers   []bookPeer `json:"peers"`
}

type bookPeer struct {
	ID    string   `json:"id"`
	Addrs []string `json:"addrs"`
}

func encodeAddressBook(peers []peer.AddrInfo) ([]byte, error) {
	file := bookFile{Version: addressBookVersion, Peers: make([]bookPeer, 0, len(peers))}
	for _, info := range peers {
		p := bookPeer{ID: info.ID.String()}
		for _, addr := range info.Addrs {
			p.Addrs = append(p.Addrs, addr.String())
		}
		file.Peers = append(file.Peers, p)
	}
	return json.MarshalIndent(file, "", " ")
}

func parseAddressBook(raw []byte) ([]peer.AddrInfo, error) {
	var file bookFile
	if err := json.Unmarshal(raw, &file); err != nil {
		return nil, fmt.Errorf("address book: %w", err)
	}
	if file.Version != addressBookVersion {
		return nil, fmt.Errorf("address book: version %d, this Muster reads %d", file.Version, addressBookVersion)
	}
	if len(file.Peers) > maxBookPeers {
		return nil, fmt.Errorf("address book: %d peers, at most %d are allowed", len(file.Peers), maxBookPeers)
	}
	var peers []peer.AddrInfo
	seen := map[peer.ID]bool{}
	for _, p := range file.Peers {
		id, err := peer.Decode(p.ID)
		if err != nil {
			return nil, fmt.Errorf("address book: peer %q: %w", p.ID, err)
		}
		if seen[id] {
			return nil, fmt.Errorf("address book: peer %s twice", id)
		}
		seen[id] = true
		info := peer.AddrInfo{ID: id}
		for _, s := range p.Addrs {
			addr, err := multiaddr.NewMultiaddr(s)
			if err != nil {
				return nil, fmt.Errorf("address book: peer %s: %w", id, err)
			}
			info.Addrs = append(info.Addrs, addr)
		}
		info.Addrs = boundAddrs(info.Addrs)
		peers = append(peers, info)
	}
	return peers, nil
}

// boundAddrs sorts, so that the same addresses are the same list, and bounds.
func boundAddrs(addrs []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	out := slices.Clone(addrs)
	slices.SortFunc(out, func(a, b multiaddr.Multiaddr) int { return a.Compare(b) })
	out = slices.CompactFunc(out, func(a, b multiaddr.Multiaddr) bool { return a.Equal(b) })
	return out[:min(len(out), maxBookAddrs)]
}

func sameAddrs(a, b []multiaddr.Multiaddr) bool {
	return slices.EqualFunc(a, b, func(a, b multiaddr.Multiaddr) bool { return a.Equal(b) })
}

func readBounded(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", info.Size(), limit)
	}
	return os.ReadFile(path)
}
