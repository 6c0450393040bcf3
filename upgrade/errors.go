package upgrade

import "errors"

// What callers branch on. The errors that wrap them say which image, file or number.
var (
	// ErrBusy says that another upgrade, rollback or reset is at work.
	ErrBusy = errors.New("another upgrade is at work")
	// ErrRefused is wrapped by everything that is refused by policy; most of it can be forced.
	ErrRefused = errors.New("refused")
	// ErrNoSpace says that a file system does not hold what is to be written; the text has the numbers.
	ErrNoSpace = errors.New("not enough space")
	// ErrContract says that the image lacks something of the image contract.
	ErrContract = errors.New("image cannot be booted")
	// ErrDamaged says that a slot does not hold what its hashes say.
	ErrDamaged = errors.New("slot is damaged")
	// ErrNotBooted says that this machine was not started by Muster's boot loader.
	ErrNotBooted = errors.New("this machine does not run from a slot")
)
