package ledger

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Limits of the state machine. They are part of the frozen rules: a voter that
// allowed more than another would come to another state.
const (
	MaxKeySize   = 256       // bytes of one key
	MaxValueSize = 64 << 10  // bytes of one value
	MaxCompares  = 256       // comparisons in one transaction
	MaxOps       = 256       // changes in one transaction
	MaxTxnSize   = 256 << 10 // bytes of one encoded transaction
	MaxStateSize = 16 << 20  // bytes of all keys and values together

	maxAuthorSize = 64 // bytes of a peer ID; an Ed25519 one has 38
)

// TxnID names one intent. A proposal that is sent again, because nobody could
// say what became of it, carries the same ID and takes effect at most once.
type TxnID [16]byte

// NewTxnID returns a random ID.
func NewTxnID() TxnID {
	var id TxnID
	_, _ = rand.Read(id[:]) // never fails (crypto/rand since Go 1.24)
	return id
}

func (id TxnID) String() string { return hex.EncodeToString(id[:]) }

// Txn changes some keys, all or none: it commits if every comparison holds.
type Txn struct {
	// ID is chosen by Propose when it is zero.
	ID      TxnID
	Compare []Compare
	Ops     []Op
}

// Compare holds when the key was last changed at Index; 0 means that the key
// does not exist.
type Compare struct {
	Key   string
	Index uint64
}

// Op sets a key to a value, or deletes it. Deleting what does not exist is
// no change.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
}

// Set returns t with one more change.
func (t Txn) Set(key string, value []byte) Txn {
	t.Ops = append(t.Ops[:len(t.Ops):len(t.Ops)], Op{Key: key, Value: value})
	return t
}

// Del returns t with one more deletion.
func (t Txn) Del(key string) Txn {
	t.Ops = append(t.Ops[:len(t.Ops):len(t.Ops)], Op{Key: key, Delete: true})
	return t
}

// If returns t with one more comparison.
func (t Txn) If(key string, index uint64) Txn {
	t.Compare = append(t.Compare[:len(t.Compare):len(t.Compare)], Compare{Key: key, Index: index})
	return t
}

// check says what about t can never be applied.
func (t Txn) check() error {
	if t.ID == (TxnID{}) {
		return errors.New("transaction has no ID")
	}
	if len(t.Ops) == 0 {
		return errors.New("transaction changes nothing")
	}
	if len(t.Ops) > MaxOps {
		return fmt.Errorf("transaction has %d changes, more than %d", len(t.Ops), MaxOps)
	}
	if len(t.Compare) > MaxCompares {
		return fmt.Errorf("transaction has %d comparisons, more than %d", len(t.Compare), MaxCompares)
	}
	for _, c := range t.Compare {
		if err := checkKey(c.Key); err != nil {
			return err
		}
	}
	seen := make(map[string]bool, len(t.Ops))
	for _, op := range t.Ops {
		if err := checkKey(op.Key); err != nil {
			return err
		}
		if seen[op.Key] {
			return fmt.Errorf("key %q is changed twice", op.Key)
		}
		seen[op.Key] = true
		if len(op.Value) > MaxValueSize {
			return fmt.Errorf("value of %q has %d bytes, more than %d", op.Key, len(op.Value), MaxValueSize)
		}
		if op.Delete && len(op.Value) > 0 {
			return fmt.Errorf("deletion of %q carries a value", op.Key)
		}
	}
	return nil
}

func checkKey(key string) error {
	switch {
	case key == "":
		return errors.New("key is empty")
	case len(key) > MaxKeySize:
		return fmt.Errorf("key has %d bytes, more than %d", len(key), MaxKeySize)
	case !utf8.ValidString(key):
		return fmt.Errorf("key %q is not UTF-8", key)
	}
	for _, c := range key {
		if c < ' ' || c == 0x7f {
			return fmt.Errorf("key %q has a control character", key)
		}
	}
	return nil
}

// command is what the Raft log and the follower stream carry: a transaction and
// its author.
type command struct {
	author peer.ID
	txn    Txn
}

const commandVersion = 1

const (
	opSet    = 0
	opDelete = 1
)

// encodeCommand writes the frozen form:
//
//	version 1 | author | ID (16) | n, n x (key, index) | n, n x (0 key value / 1 key)
//
// Numbers are unsigned varints; author, key and value have their length in
// front.
func encodeCommand(c command) ([]byte, error) {
	if len(c.author) == 0 || len(c.author) > maxAuthorSize {
		return nil, fmt.Errorf("author has %d bytes", len(c.author))
	}
	if err := c.txn.check(); err != nil {
		return nil, err
	}
	b := []byte{commandVersion}
	b = appendBytes(b, string(c.author))
	b = append(b, c.txn.ID[:]...)
	b = binary.AppendUvarint(b, uint64(len(c.txn.Compare)))
	for _, cmp := range c.txn.Compare {
		b = appendBytes(b, cmp.Key)
		b = binary.AppendUvarint(b, cmp.Index)
	}
	b = binary.AppendUvarint(b, uint64(len(c.txn.Ops)))
	for _, op := range c.txn.Ops {
		if op.Delete {
			b = append(b, opDelete)
			b = appendBytes(b, op.Key)
			continue
		}
		b = append(b, opSet)
		b = appendBytes(b, op.Key)
		b = appendBytes(b, op.Value)
	}
	if len(b) > MaxTxnSize {
		return nil, fmt.Errorf("transaction has %d bytes, more than %d", len(b), MaxTxnSize)
	}
	return b, nil
}

func decodeCommand(b []byte) (command, error) {
	if len(b) > MaxTxnSize {
		return command{}, fmt.Errorf("decode transaction: %d bytes, more than %d", len(b), MaxTxnSize)
	}
	var c command
	r := &reader{rest: b}
	if v := r.byte(); r.err == nil && v != commandVersion {
		return command{}, fmt.Errorf("decode transaction: unknown version %d", v)
	}
	c.author = peer.ID(r.bytes("author", maxAuthorSize))
	copy(c.txn.ID[:], r.fixed(len(c.txn.ID)))
	for range r.count("comparisons", MaxCompares) {
		c.txn.Compare = append(c.txn.Compare, Compare{
			Key:   string(r.bytes("key", MaxKeySize)),
			Index: r.uint(),
		})
	}
	for range r.count("changes", MaxOps) {
		var op Op
		switch kind := r.byte(); kind {
		case opSet:
			op.Key = string(r.bytes("key", MaxKeySize))
			op.Value = bytes.Clone(r.bytes("value", MaxValueSize))
		case opDelete:
			op.Key = string(r.bytes("key", MaxKeySize))
			op.Delete = true
		default:
			r.fail(fmt.Errorf("unknown kind of change %d", kind))
		}
		c.txn.Ops = append(c.txn.Ops, op)
	}
	if err := r.end(); err != nil {
		return command{}, fmt.Errorf("decode transaction: %w", err)
	}
	if len(c.author) == 0 {
		return command{}, errors.New("decode transaction: no author")
	}
	if err := c.txn.check(); err != nil {
		return command{}, fmt.Errorf("decode transaction: %w", err)
	}
	return c, nil
}
