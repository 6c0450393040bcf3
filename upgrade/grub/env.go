package grub

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// EnvSize is the size of GRUB's environment block in bytes.
const EnvSize = 1024

// DefaultMaxTries is how often an image on trial is started when the environment does not say.
const DefaultMaxTries = 2

// maxGood is how many images stay known as good: the two slots and the one before.
const maxGood = 3

const signature = "# GRUB Environment Block\n"

// Widths of the values that decide a boot. They never change, so that GRUB and Muster overwrite values where they are and
// everything that decides stays in the first 512 bytes, the unit that a disk writes whole.
const (
	widthID        = 64
	widthGood      = maxGood*widthID + maxGood - 1
	widthTries     = 1
	widthNextEntry = len("statereset")
	widthFellBack  = len("passive:unreadable")
)

var (
	// ErrEnvUnreadable says that there is no environment block, or that GRUB would not accept it.
	ErrEnvUnreadable = errors.New("boot environment cannot be read")
	// ErrEnvFull says that the variables do not fit into the block.
	ErrEnvFull = errors.New("boot environment is full")
	// ErrEnvValue says that a value cannot be in the environment.
	ErrEnvValue = errors.New("impossible value in the boot environment")
)

// Trial is an image that was started without having proved good.
type Trial struct {
	ID    string // 64 hex digits; empty when nothing is on trial
	Tries int    // how often it was started, 0 to 9
}

// Variable is one that this package does not know.
type Variable struct{ Name, Value string }

// Env is the boot environment (docs/OS.md).
type Env struct {
	Good            []string // ids that proved good, newest first; Encode keeps the first three
	Active, Passive Trial
	MaxTries        int        // 1 to 9; 0 is DefaultMaxTries
	NextEntry       string     // active, passive, recovery or statereset: the next boot only; empty is none
	FellBack        string     // SLOT:REASON of the slot that GRUB passed over last; empty is none
	ExtraCmdline    string     // appended to every kernel command line
	Other           []Variable // in their order
}

// The order of the known variables in the block is part of the promise about the first 512 bytes.
const (
	varGood         = "good"
	varActiveID     = "active_id"
	varActiveTries  = "active_tries"
	varPassiveID    = "passive_id"
	varPassiveTries = "passive_tries"
	varMaxTries     = "max_tries"
	varNextEntry    = "next_entry"
	varFellBack     = "fell_back"
	varExtra        = "extra_cmdline"
)

var known = []string{varGood, varActiveID, varActiveTries, varPassiveID, varPassiveTries, varMaxTries, varNextEntry, varFellBack, varExtra}

// DecodeEnv reads an environment block. As in GRUB, only the signature is demanded (ErrEnvUnreadable): a known variable
// whose value is impossible counts as not set, and the last of two with one name wins.
func DecodeEnv(block []byte) (Env, error) {
	if !bytes.HasPrefix(block, []byte(signature)) {
		return Env{}, fmt.Errorf("%w: no GRUB signature", ErrEnvUnreadable)
	}
	env := Env{MaxTries: DefaultMaxTries}
	for _, v := range variables(block[len(signature):]) {
		trimmed := strings.TrimRight(v.Value, " ")
		switch v.Name {
		case varGood:
			env.Good = slices.DeleteFunc(strings.Split(v.Value, " "), func(id string) bool { return !validID(id) })
		case varActiveID:
			env.Active.ID = knownID(trimmed)
		case varPassiveID:
			env.Passive.ID = knownID(trimmed)
		case varActiveTries:
			env.Active.Tries = digit(v.Value, 0)
		case varPassiveTries:
			env.Passive.Tries = digit(v.Value, 0)
		case varMaxTries:
			env.MaxTries = cmp.Or(digit(v.Value, 0), DefaultMaxTries)
		case varNextEntry:
			env.NextEntry = ""
			if entry := kairosEntry(trimmed); ValidNextEntry(entry) {
				env.NextEntry = entry
			}
		case varFellBack:
			env.FellBack = ""
			if validFellBack(trimmed) {
				env.FellBack = trimmed
			}
		case varExtra:
			env.ExtraCmdline = v.Value
		default:
			i := slices.IndexFunc(env.Other, func(o Variable) bool { return o.Name == v.Name })
			if i < 0 {
				env.Other = append(env.Other, v)
			} else {
				env.Other[i].Value = v.Value
			}
		}
	}
	if len(env.Good) == 0 {
		env.Good = nil
	}
	return env, nil
}

// Encode returns the block, EnvSize bytes. It fails with ErrEnvValue or ErrEnvFull.
func (e Env) Encode() ([]byte, error) {
	if err := e.validate(); err != nil {
		return nil, err
	}
	maxTries := cmp.Or(e.MaxTries, DefaultMaxTries)
	var b strings.Builder
	b.WriteString(signature)
	put := func(name, value string, width int) {
		fmt.Fprintf(&b, "%s=%-*s\n", name, width, escape(value))
	}
	put(varGood, strings.Join(e.Good[:min(len(e.Good), maxGood)], " "), widthGood)
	put(varActiveID, e.Active.ID, widthID)
	put(varActiveTries, fmt.Sprint(e.Active.Tries), widthTries)
	put(varPassiveID, e.Passive.ID, widthID)
	put(varPassiveTries, fmt.Sprint(e.Passive.Tries), widthTries)
	put(varMaxTries, fmt.Sprint(maxTries), widthTries)
	put(varNextEntry, e.NextEntry, widthNextEntry)
	put(varFellBack, e.FellBack, widthFellBack)
	put(varExtra, e.ExtraCmdline, 0)
	for _, v := range e.Other {
		put(v.Name, v.Value, 0)
	}
	if b.Len() > EnvSize {
		return nil, fmt.Errorf("%w: %d bytes of %d", ErrEnvFull, b.Len(), EnvSize)
	}
	b.WriteString(strings.Repeat("#", EnvSize-b.Len()))
	return []byte(b.String()), nil
}

func (e Env) validate() error {
	for _, id := range append([]string{e.Active.ID, e.Passive.ID}, e.Good...) {
		if id != "" && !validID(id) {
			return fmt.Errorf("%w: %q is not an image id", ErrEnvValue, id)
		}
	}
	for _, n := range []int{e.Active.Tries, e.Passive.Tries, e.MaxTries} {
		if n < 0 || n > 9 {
			return fmt.Errorf("%w: %d tries, want 0 to 9", ErrEnvValue, n)
		}
	}
	if e.NextEntry != "" && !ValidNextEntry(e.NextEntry) {
		return fmt.Errorf("%w: next_entry %q, want active, passive, recovery or statereset", ErrEnvValue, e.NextEntry)
	}
	if e.FellBack != "" && !validFellBack(e.FellBack) {
		return fmt.Errorf("%w: fell_back %q", ErrEnvValue, e.FellBack)
	}
	if slices.Contains(e.Good, "") {
		return fmt.Errorf("%w: an empty id is good", ErrEnvValue)
	}
	if strings.ContainsAny(e.ExtraCmdline, "\n\x00") {
		return fmt.Errorf("%w: extra_cmdline of more than one line", ErrEnvValue)
	}
	for _, v := range e.Other {
		if slices.Contains(known, v.Name) || v.Name == "" || v.Name[0] == '#' || strings.ContainsAny(v.Name, "=\n\\\x00") || strings.ContainsAny(v.Value, "\n\x00") {
			return fmt.Errorf("%w: variable %q", ErrEnvValue, v.Name)
		}
	}
	return nil
}

// variables splits what follows the signature as grub_envblk_iterate does: a backslash takes the next byte literally, a
// line that begins with # is no variable.
func variables(block []byte) (all []Variable) {
	for len(block) > 0 {
		line, rest := cutLine(block)
		block = rest
		name, value, ok := strings.Cut(line, "=")
		// A name that GRUB could not use, or Encode not write back, is nobody's.
		if !ok || name == "" || name[0] == '#' || strings.ContainsAny(line, "\n\x00") || strings.ContainsRune(name, '\\') {
			continue
		}
		all = append(all, Variable{name, unescape(value)})
	}
	return all
}

// cutLine returns the bytes up to the newline that no backslash precedes. A line without its end is no line.
func cutLine(block []byte) (line string, rest []byte) {
	for i := 0; i < len(block); i++ {
		switch block[i] {
		case '\\':
			i++
		case '\n':
			return string(block[:i]), block[i+1:]
		}
	}
	return "", nil
}

func escape(value string) string { return strings.ReplaceAll(value, `\`, `\\`) }

func unescape(value string) string {
	var b strings.Builder
	for i := 0; i < len(value); i++ {
		if value[i] == '\\' && i+1 < len(value) {
			i++
		}
		b.WriteByte(value[i])
	}
	return b.String()
}

// ValidNextEntry says whether GRUB would follow this next_entry.
func ValidNextEntry(entry string) bool {
	return slices.Contains([]string{"active", "passive", "recovery", "statereset"}, entry)
}

// kairosEntry maps the names that Kairos has for two of the entries.
func kairosEntry(entry string) string {
	switch entry {
	case "cos":
		return SlotActive
	case "fallback":
		return SlotPassive
	}
	return entry
}

func validFellBack(reason string) bool {
	slot, why, _ := strings.Cut(reason, ":")
	return (slot == SlotActive || slot == SlotPassive) && slices.Contains(reasons, why)
}

func validID(id string) bool {
	return len(id) == widthID && strings.Trim(id, "0123456789abcdef") == ""
}

func knownID(id string) string {
	if validID(id) {
		return id
	}
	return ""
}

func digit(value string, otherwise int) int {
	if len(value) == 1 && value[0] >= '0' && value[0] <= '9' {
		return int(value[0] - '0')
	}
	return otherwise
}
