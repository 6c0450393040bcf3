package vm

import (
	"errors"
	"fmt"
	"strings"
)

// ErrOff says that the machine is not running.
var ErrOff = errors.New("the machine is off")

// ErrResets says that a machine went on resetting after it was started as often as Options.Resets allows.
var ErrResets = errors.New("the machine keeps resetting")

// ExitError is a command in the guest that failed.
type ExitError struct {
	Script string
	Code   int
	Output string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("run %q in the guest: exit %d: %s", e.Script, e.Code, strings.TrimSpace(e.Output))
}
