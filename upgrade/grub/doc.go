// Package grub is what Muster and GRUB say to each other: the environment block that both write (Env), the script that
// decides which slot is booted (Config), the same rules in Go (Choose), and the boot sector.
//
// The rules are in docs/OS.md. Config and Choose say the same thing twice on purpose: one runs on machines, the other is
// what tests of power cuts ask, and a test runs the real script in GRUB and compares.
package grub
