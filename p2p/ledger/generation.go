package ledger

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A generation says how often a site's ledger was recovered by an operator. Its
// number is in the upper half; the lower half is random, so that two operators
// who recover two halves of a cut site make two generations that can be told
// apart: neither follows, votes for or feeds the other. 0 is the founded site.
const mintBits = 32

// GenerationNumber returns how often the ledger was recovered, for people.
func GenerationNumber(generation uint64) uint64 { return generation >> mintBits }

// maxMissed is more recoveries than a site ever had while a node was away. Whoever
// claims more lies: the highest number of all would leave nothing to mint.
const maxMissed = 1024

// Supersedes says whether generation a ends generation b. Two that were minted
// from the same one end neither each other nor themselves: an operator has to.
func Supersedes(a, b uint64) bool {
	missed := GenerationNumber(a) - GenerationNumber(b)
	return GenerationNumber(a) > GenerationNumber(b) && missed <= maxMissed
}

// NextGeneration mints a generation above the highest that was seen.
func NextGeneration(highest uint64) uint64 {
	var mint [mintBits / 8]byte
	_, _ = rand.Read(mint[:]) // never fails (crypto/rand since Go 1.24)
	return (GenerationNumber(highest)+1)<<mintBits | uint64(binary.BigEndian.Uint32(mint[:]))
}

// SpellGeneration writes a generation so that two of one number differ.
func SpellGeneration(generation uint64) string {
	if generation>>mintBits == 0 {
		return strconv.FormatUint(generation, 10)
	}
	return fmt.Sprintf("%d-%08x", GenerationNumber(generation), uint32(generation))
}

const generationPrefix = "generation-"

// dataDir is where a generation keeps its copy and its Raft state. Each has its
// own, so that entering another one is a single rename (of ledger.json) and the
// old one's votes are set aside where nothing reads them.
func dataDir(dir string, s Site) string {
	if s.Generation == 0 {
		return dir
	}
	return filepath.Join(dir, generationPrefix+SpellGeneration(s.Generation))
}

// removeUnborn removes what an interrupted recovery or adoption left: folders of
// generations that ledger.json never named.
func removeUnborn(dir string, current uint64) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("clean up unfinished generations: %w", err)
	}
	for _, e := range entries {
		number, _, ok := strings.Cut(strings.TrimPrefix(e.Name(), generationPrefix), "-")
		n, err := strconv.ParseUint(number, 10, 32)
		if !ok || err != nil || !strings.HasPrefix(e.Name(), generationPrefix) || n <= GenerationNumber(current) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("clean up unfinished generations: %w", err)
		}
	}
	return nil
}
