package grub

import (
	"bytes"
	_ "embed"
	"fmt"
	"strings"
	"text/template"
)

//go:embed grub.cfg
var script string

// Options of the script.
type Options struct {
	Timeout int // seconds that the menu waits for a key; 0 boots at once
}

// Config returns grub.cfg, which lies at /grub2/grub.cfg of COS_STATE.
func Config(o Options) []byte {
	var out bytes.Buffer
	var count []map[string]int // GRUB has no arithmetic
	for n := 1; n <= 9; n++ {
		count = append(count, map[string]int{"From": n, "To": min(n+1, 9)})
	}
	var fellBack []map[string]string
	for _, slot := range []string{SlotActive, SlotPassive} {
		for _, reason := range reasons {
			reason = slot + ":" + reason
			fellBack = append(fellBack, map[string]string{"Reason": reason, "Value": fmt.Sprintf("%-*s", widthFellBack, reason)})
		}
	}
	t := template.Must(template.New("grub.cfg").Parse(script))
	if err := t.Execute(&out, map[string]any{
		"Timeout": o.Timeout, "DefaultMaxTries": DefaultMaxTries, "Count": count, "FellBack": fellBack,
		"BlankID":        strings.Repeat(" ", widthID),
		"BlankGood":      strings.Repeat(" ", widthGood),
		"BlankNextEntry": strings.Repeat(" ", widthNextEntry),
		"BlankFellBack":  strings.Repeat(" ", widthFellBack),
		"Digits":         strings.Repeat("[0-9a-f]", widthID), // GRUB's lexer would take {64} for a block
	}); err != nil {
		panic(fmt.Sprintf("grub.cfg: %v", err)) // the template is part of the program
	}
	return out.Bytes()
}

// EmbeddedConfig returns the script inside core.img and BOOTX64.EFI: it finds the file system that holds grub.cfg.
func EmbeddedConfig() []byte {
	return []byte(embedded)
}

//go:embed embedded.cfg
var embedded string

// Modules are those that core.img and BOOTX64.EFI are made of, besides biosdisk and efi_gop for the one and the other.
// Everything that grub.cfg needs is in the core: there is no folder of modules on the disk.
func Modules() []string { return strings.Fields(modules) }

//go:embed modules
var modules string
