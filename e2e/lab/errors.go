package lab

import (
	"errors"
	"fmt"
)

// Sentinels for what callers branch on.
var (
	// ErrUsage marks a request that cannot be carried out as asked: an unknown node, a feature that this lab does not have.
	ErrUsage = errors.New("wrong usage")
	// ErrTimeout says that the state waited for was not reached; the lab is left running.
	ErrTimeout = errors.New("timed out")
	// ErrNotUp says that there is no lab in the directory.
	ErrNotUp = errors.New("no lab is up")
	// ErrNodeDown says that the node has no power.
	ErrNodeDown = errors.New("node is down")
)

// ExitError is the outcome of a command that ran in a node and did not end with 0.
type ExitError struct {
	Code int // as a shell counts: 128 + the signal's number if a signal ended it
}

func (e *ExitError) Error() string { return fmt.Sprintf("exit status %d", e.Code) }

// ExitCode returns the exit code by which a command line reports err: 0 done, 1 failed, 2 wrong usage, 3 waiting timed out;
// for an [ExitError] the code of the command.
func ExitCode(err error) int {
	var exit *ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.Code
	case errors.Is(err, ErrUsage):
		return 2
	case errors.Is(err, ErrTimeout):
		return 3
	}
	return 1
}
