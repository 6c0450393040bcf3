// Command run is `make soak`.
package main

import (
	"os"

	"github.com/muster-edge/muster/e2e/soak"
)

func main() { os.Exit(soak.Main(os.Args[1:], os.Stdout)) }
