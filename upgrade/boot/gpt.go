package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// UEFI specification 2.10, 5.3: where things are in a GPT header and in an entry.
const (
	gptSignature   = "EFI PART"
	gptHeaderSize  = 92
	gptCRC         = 16
	gptMyLBA       = 24
	gptOtherLBA    = 32
	gptLastUsable  = 48
	gptEntriesLBA  = 72
	gptCount       = 80
	gptEntrySize   = 84
	gptEntriesCRC  = 88
	gptEntryFirst  = 32
	gptEntryLast   = 40
	gptEntriesMax  = 1024
	gptSlack       = 1 << 20 // bytes not worth growing for
	gptAlign       = 1 << 20
	gptFirstHeader = 1
	gptTableMax    = 64 // every tool puts the table at 2; all before its end is written at once
)

var errGPT = errors.New("no valid partition table")

// growth is what writing a larger last partition takes.
type growth struct {
	start, size uint64 // of the partition in bytes, size after growing
	grown       bool
	// backup goes to the end of the disk and is synced before primary goes to its front, so that a power cut leaves a table.
	backup, primary     []byte
	backupAt, primaryAt int64
}

// planGrowth works out how partition n (from 1) takes the rest of a disk of size bytes. It must be the last one on it.
func planGrowth(disk io.ReaderAt, size uint64, sector uint64, n int) (growth, error) {
	if sector < 512 || sector > 4096 || sector&(sector-1) != 0 || size < 1<<20 {
		return growth{}, fmt.Errorf("%w: disk of %d bytes, sectors of %d", errGPT, size, sector)
	}
	header := make([]byte, sector)
	if _, err := disk.ReadAt(header, int64(sector)); err != nil {
		return growth{}, err
	}
	count, entrySize, err := checkHeader(header)
	if err != nil {
		return growth{}, err
	}
	if n < 1 || n > count {
		return growth{}, fmt.Errorf("%w: no entry %d", errGPT, n)
	}
	tableLBA := binary.LittleEndian.Uint64(header[gptEntriesLBA:])
	tableSectors := (uint64(count)*uint64(entrySize) + sector - 1) / sector
	total := size / sector
	if tableLBA < 2 || tableLBA > gptTableMax || tableSectors+2 > total-tableLBA {
		return growth{}, fmt.Errorf("%w: entries at sector %d", errGPT, tableLBA)
	}
	entries := make([]byte, count*entrySize)
	if _, err := disk.ReadAt(entries, int64(tableLBA*sector)); err != nil {
		return growth{}, err
	}
	if crc32.ChecksumIEEE(entries) != binary.LittleEndian.Uint32(header[gptEntriesCRC:]) {
		return growth{}, fmt.Errorf("%w: checksum of the entries", errGPT)
	}
	entry := entries[(n-1)*entrySize : n*entrySize]
	first, last := binary.LittleEndian.Uint64(entry[gptEntryFirst:]), binary.LittleEndian.Uint64(entry[gptEntryLast:])
	if bytes.Equal(entry[:16], make([]byte, 16)) || first == 0 || last < first || last >= total {
		return growth{}, fmt.Errorf("%w: partition %d is %d to %d", errGPT, n, first, last)
	}
	g := growth{start: first * sector, size: (last - first + 1) * sector}
	for i := range count {
		if binary.LittleEndian.Uint64(entries[i*entrySize+gptEntryFirst:]) > last {
			return g, nil // something lies behind it
		}
	}
	// The backup is the header in the last sector and the entries before it.
	usable := total - tableSectors - 2
	wanted := usable
	if align := gptAlign / sector; (usable+1)/align*align > last+1 {
		wanted = (usable+1)/align*align - 1
	}
	if wanted < last || (wanted-last)*sector < gptSlack {
		return g, nil
	}
	binary.LittleEndian.PutUint64(entry[gptEntryLast:], wanted)
	g.size, g.grown = (wanted-first+1)*sector, true

	primary, backup := bytes.Clone(header), bytes.Clone(header)
	finishHeader(primary, entries, gptFirstHeader, total-1, tableLBA, usable)
	finishHeader(backup, entries, total-1, gptFirstHeader, total-1-tableSectors, usable)
	padded := make([]byte, tableSectors*sector)
	copy(padded, entries)
	g.backup, g.backupAt = append(bytes.Clone(padded), backup...), int64((total-1-tableSectors)*sector)
	// One write from the header to the last entry: the sectors in it that change lie in one page of the disk's cache, mostly.
	g.primary = make([]byte, (tableLBA+tableSectors-1)*sector)
	g.primaryAt = int64(sector)
	if _, err := disk.ReadAt(g.primary, g.primaryAt); err != nil {
		return growth{}, err
	}
	copy(g.primary, primary)
	copy(g.primary[(tableLBA-1)*sector:], padded)
	return g, nil
}

func checkHeader(header []byte) (count, entrySize int, err error) {
	size := binary.LittleEndian.Uint32(header[12:])
	if string(header[:8]) != gptSignature || size < gptHeaderSize || int(size) > len(header) {
		return 0, 0, errGPT
	}
	sum := bytes.Clone(header[:size])
	clear(sum[gptCRC : gptCRC+4])
	if crc32.ChecksumIEEE(sum) != binary.LittleEndian.Uint32(header[gptCRC:]) || binary.LittleEndian.Uint64(header[gptMyLBA:]) != gptFirstHeader {
		return 0, 0, fmt.Errorf("%w: checksum of the header", errGPT)
	}
	c, s := binary.LittleEndian.Uint32(header[gptCount:]), binary.LittleEndian.Uint32(header[gptEntrySize:])
	if c == 0 || c > gptEntriesMax || s < 128 || s > 4096 || s%8 != 0 {
		return 0, 0, fmt.Errorf("%w: %d entries of %d bytes", errGPT, c, s)
	}
	return int(c), int(s), nil
}

func finishHeader(header, entries []byte, my, other, table, usable uint64) {
	binary.LittleEndian.PutUint64(header[gptMyLBA:], my)
	binary.LittleEndian.PutUint64(header[gptOtherLBA:], other)
	binary.LittleEndian.PutUint64(header[gptLastUsable:], usable)
	binary.LittleEndian.PutUint64(header[gptEntriesLBA:], table)
	binary.LittleEndian.PutUint32(header[gptEntriesCRC:], crc32.ChecksumIEEE(entries))
	clear(header[gptCRC : gptCRC+4])
	size := binary.LittleEndian.Uint32(header[12:])
	binary.LittleEndian.PutUint32(header[gptCRC:], crc32.ChecksumIEEE(header[:size]))
}
