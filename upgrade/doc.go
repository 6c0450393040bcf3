// Package upgrade replaces the operating system of a machine by another image, and remembers which one is good (docs/OS.md).
//
// A new image is built beside the slot that runs (transition.img), read back, and becomes a slot by rename only. Whatever
// must not be lost is written so that power may fail between any two steps: Options.Step names each of them, and the test
// of this package cuts the power there.
//
// Every operation takes the machine's lock and leaves the file systems as it found them: COS_STATE and COS_RECOVERY
// read-only, their journals written back, because GRUB reads no journal.
package upgrade
