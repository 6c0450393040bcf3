package boot

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// ErrCommandLine is returned for a kernel command line that names no image to boot.
var ErrCommandLine = errors.New("bad kernel command line")

// Slot names as the boot loader writes them.
const (
	SlotActive   = "active"
	SlotPassive  = "passive"
	SlotRecovery = "recovery"
)

// CommandLine is what the kernel command line says about this boot.
type CommandLine struct {
	Label string // of the file system that holds the slot file
	FS    string // UUID of that file system, as far as the boot loader knew it: labels may be there twice
	File  string // the slot file in it, absolute
	Slot  string // active, passive or recovery
	Image string // id of the image, empty when the boot loader gave none
	Reset bool   // persistent state is to be wiped
	Init  string // what becomes PID 1, empty for the image's own
	Quiet bool   // the console is for others
}

// ParseCommandLine reads what /proc/cmdline holds. Of a parameter that is there twice the last one counts, as for the kernel.
func ParseCommandLine(line string) (CommandLine, error) {
	values := map[string]string{}
	for _, word := range words(line) {
		if word == "--" {
			break // the rest is for init
		}
		key, value, _ := strings.Cut(word, "=")
		values[key] = value
	}
	_, reset := values["muster.reset"]
	_, quiet := values["quiet"]
	c := CommandLine{
		FS: strings.ToLower(values["muster.fs"]), File: values["cos-img/filename"], Slot: values["muster.slot"], Image: values["muster.image"],
		Reset: reset, Init: values["init"], Quiet: quiet,
	}
	label, ok := strings.CutPrefix(values["root"], "LABEL=")
	switch {
	case !ok || label == "" || len(label) > 16 || strings.ContainsAny(label, "/\x00"):
		return CommandLine{}, fmt.Errorf("%w: root=%q is not LABEL=NAME", ErrCommandLine, values["root"])
	case c.File == "":
		return CommandLine{}, fmt.Errorf("%w: no cos-img/filename=", ErrCommandLine)
	case !path.IsAbs(c.File) || path.Clean(c.File) != c.File || c.File == "/" || strings.ContainsRune(c.File, 0):
		return CommandLine{}, fmt.Errorf("%w: cos-img/filename=%q is not an absolute path", ErrCommandLine, c.File)
	case c.Init != "" && !path.IsAbs(c.Init):
		return CommandLine{}, fmt.Errorf("%w: init=%q is not an absolute path", ErrCommandLine, c.Init)
	}
	c.Label = label
	if c.Slot == "" {
		c.Slot = slotOf(c.File)
	}
	switch c.Slot {
	case SlotActive, SlotPassive, SlotRecovery:
	default:
		return CommandLine{}, fmt.Errorf("%w: muster.slot=%q is none of active, passive, recovery", ErrCommandLine, c.Slot)
	}
	return c, nil
}

// slotOf guesses from the file's name, for a line that a person typed.
func slotOf(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".")
	return name
}

// words splits as the kernel does: at white space that is not in double quotes.
func words(line string) []string {
	var all []string
	var word strings.Builder
	quoted, started := false, false
	for _, c := range []byte(line) {
		switch {
		case c == '"':
			quoted, started = !quoted, true
		case !quoted && (c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			if started {
				all = append(all, word.String())
			}
			word.Reset()
			started = false
		default:
			word.WriteByte(c)
			started = true
		}
	}
	if started {
		all = append(all, word.String())
	}
	return all
}
