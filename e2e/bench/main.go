// Command bench measures Muster beside its peers, on this machine and in one run, and writes the tables of
// docs/BENCHMARKS.md. `make bench` calls it, as root. Bars are reported, not asserted: the exit code is 0 if everything
// could be measured, 1 if not, 2 for a wrong flag.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/muster-edge/muster/e2e/bench/suite"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	config, err := parse(ctx, os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	if err := suite.Run(ctx, config); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
