// Command muster-init is /init of the initramfs: it assembles the root file system and becomes its PID 1.
package main

import (
	"os"

	"github.com/muster-edge/muster/upgrade/boot"
)

func main() {
	if os.Getpid() == 1 {
		boot.Init()
	}
	os.Exit(boot.DryRun(os.Args[1:], os.Stdout, os.Stderr))
}
