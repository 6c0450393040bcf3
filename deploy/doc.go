// Package deploy brings an image onto a machine: as a raw disk image (Disk), or onto the disk of a machine that runs
// something else (Install). Both make the disk of docs/OS.md and boot nothing.
//
// A disk becomes bootable last: its file systems are complete and on the disk before the partition table is written, and the
// boot sector follows that. A disk whose installation was cut boots nothing, and installing again starts from the beginning.
package deploy
