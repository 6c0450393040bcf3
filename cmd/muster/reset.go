package main

import (
	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/upgrade"
)

func newResetCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "reset", Args: cobra.NoArgs,
		Short: "Wipe this machine's data and let it join anew",
		Long: `Wipe this machine's data (COS_PERSISTENT: workloads, Kubernetes, the node's identity) and
let it join anew. The configuration in /oem is kept. The machine restarts into recovery,
which does the work and restarts it again; a power cut on the way continues there.

On a terminal you are asked first; elsewhere --yes is needed. In recovery, started for a
reset, the same command does the work.`,
		Example: `  muster reset
  muster reset --yes       in scripts`,
		RunE: func(c *cobra.Command, _ []string) error {
			m, boot, err := slots()
			if err != nil {
				return err
			}
			if boot.Slot == upgrade.Recovery && boot.Reset {
				progress := startMeter(c.Context(), c.ErrOrStderr())
				progress.report("wipe COS_PERSISTENT", 0, 0)
				err := m.Reset(c.Context(), upgrade.Options{Progress: progress.image})
				progress.close()
				if err != nil {
					return osError(interrupted(err, "the data may be gone in part; `muster reset` does it again"))
				}
				return restart(c.Context())
			}
			if !yes {
				if err := confirm(c, "Everything on COS_PERSISTENT (/usr/local) of this machine will be lost; /oem is kept.", "reset", true); err != nil {
					return err
				}
			}
			if err := m.RequestReset(upgrade.Options{}); err != nil {
				return osError(err)
			}
			return restart(c.Context())
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}
