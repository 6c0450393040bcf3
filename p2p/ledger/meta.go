package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/muster-edge/muster/p2p"
)

const (
	metaFile    = "ledger.json"
	metaVersion = 1
)

// meta says what the other files are. It is written before any of them.
type meta struct {
	Version      int           `json:"version"`
	Site         Site          `json:"site"`
	Self         string        `json:"self"` // peer ID: the folder is of no use to another node
	Voter        bool          `json:"voter"`
	Server       string        `json:"server,omitempty"` // Raft server ID
	Founding     []raft.Server `json:"founding,omitempty"`
	Genesis      *Genesis      `json:"genesis,omitempty"`
	Bootstrapped bool          `json:"bootstrapped,omitempty"`
	// Superseded is a generation to which this node has given way and whose copy it
	// does not have yet: it votes no more.
	Superseded uint64 `json:"superseded,omitempty"`
}

func foundingMeta(cfg Config, cert Certificate) (meta, error) {
	if err := cert.Verify(); err != nil {
		return meta{}, err
	}
	self := cfg.Identity.ID().String()
	if !cert.Genesis.Founder(self) {
		return meta{}, errors.New("this node is not one of the founders")
	}
	m := meta{
		Version: metaVersion,
		Site:    Site{ID: cert.Genesis.Site},
		Self:    self,
		Genesis: &cert.Genesis,
	}
	for _, master := range cert.Genesis.Masters { // sorted, so identical everywhere
		id, err := peer.Decode(master)
		if err != nil {
			return meta{}, err
		}
		m.Founding = append(m.Founding, raft.Server{
			Suffrage: raft.Voter,
			ID:       serverID(id, cert.Incarnation(master)),
			Address:  raft.ServerAddress(master),
		})
	}
	if !cert.Genesis.Master(self) {
		return m, nil
	}
	incarnation, err := Incarnation(cfg.Dir)
	if err != nil {
		return meta{}, err
	}
	if promised := cert.Incarnation(self); incarnation != promised {
		return meta{}, fmt.Errorf("the founding promise was made with storage %s, this is storage %s", promised, incarnation)
	}
	m.Voter = true
	m.Server = string(serverID(cfg.Identity.ID(), incarnation))
	return m, nil
}

func readMeta(dir string) (meta, error) {
	path := filepath.Join(dir, metaFile)
	b, err := readBounded(path, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return meta{}, fmt.Errorf("open ledger in %s: %w", dir, ErrNoLedger)
	}
	if err != nil {
		return meta{}, fmt.Errorf("open ledger: %w", err)
	}
	var m meta
	if err := json.Unmarshal(b, &m); err != nil {
		return meta{}, &CorruptError{File: path, Reason: err.Error()}
	}
	if m.Version != metaVersion {
		return meta{}, &CorruptError{File: path, Reason: fmt.Sprintf("unknown version %d", m.Version)}
	}
	if m.Site.ID == "" || len(m.Site.ID) > maxSiteSize {
		return meta{}, &CorruptError{File: path, Reason: "it names no site"}
	}
	return m, nil
}

func writeMeta(dir string, m meta) error {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("write ledger description: %w", err)
	}
	return p2p.WriteFile(filepath.Join(dir, metaFile), append(b, '\n'), 0o600)
}
