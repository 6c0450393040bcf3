package ledger

import (
	"errors"
	"fmt"
)

var (
	// ErrNoLedger is returned by Open when the directory holds no ledger.
	ErrNoLedger = errors.New("no ledger on this disk")

	// ErrConflict: a comparison of the transaction failed, nothing was changed.
	// Read again and decide again. The concrete error is a *ConflictError.
	ErrConflict = errors.New("conflict")

	// ErrRefused: the author may not propose that, or a record is not valid.
	// Trying again unchanged will not help. The concrete error is a
	// *RefusedError.
	ErrRefused = errors.New("refused")

	// ErrNoQuorum: no coordinator took the proposal in time. It says nothing
	// about the transaction, which may still commit: read before trying again.
	ErrNoQuorum = errors.New("no quorum")

	// ErrClosed is returned by every call on a closed ledger.
	ErrClosed = errors.New("ledger is closed")
)

// ConflictError names the key whose index was not the expected one.
type ConflictError struct{ Key string }

func (e *ConflictError) Error() string { return fmt.Sprintf("conflict on %q", e.Key) }

// Is makes errors.Is(err, ErrConflict) true.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// RefusedError says in a plain sentence why a proposal or an enrolment was
// refused.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "refused: " + e.Reason }

// Is makes errors.Is(err, ErrRefused) true.
func (e *RefusedError) Is(target error) bool { return target == ErrRefused }

func refusedf(format string, args ...any) error {
	return &RefusedError{Reason: fmt.Sprintf(format, args...)}
}

// CorruptError names a file of the ledger that cannot be read.
type CorruptError struct {
	File   string
	Reason string
}

func (e *CorruptError) Error() string { return fmt.Sprintf("%s is damaged: %s", e.File, e.Reason) }
