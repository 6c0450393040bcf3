package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/muster-edge/muster/upgrade"
)

// newRetryCommand is what muster-recovery.timer starts.
func newRetryCommand() *cobra.Command {
	return &cobra.Command{
		Use: "retry", Args: cobra.NoArgs, Hidden: true,
		Short: "In recovery: have the slots tried again and restart (muster-recovery.timer does this)",
		Long: `In recovery: have the slots tried again that the boot loader gave up, and restart
this machine. Nothing is done while someone is logged in, or an upgrade or a reset
is at work.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if who := loggedIn("/run/systemd/sessions"); who != "" {
				fmt.Fprintf(c.OutOrStdout(), "the slots are not tried again while %s is logged in\n", who)
				return nil
			}
			m, _, err := slots()
			if err != nil {
				return err
			}
			if err := m.TryAgain(upgrade.Options{}); err != nil {
				return osError(err)
			}
			fmt.Fprintln(c.OutOrStdout(), "recovery was started because no slot could be; the slots are tried again now")
			return restart(c.Context())
		},
	}
}

// loggedIn returns the name of someone who is logged in, from logind's files (systemd, man:sd-login); "" when nobody is, or there is no logind.
func loggedIn(dir string) string {
	sessions, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return "" // the pattern is a constant
	}
	for _, session := range sessions {
		if info, err := os.Stat(session); err != nil || !info.Mode().IsRegular() { // N.ref is a pipe
			continue
		}
		data, err := os.ReadFile(session)
		if err != nil {
			continue // logged out meanwhile
		}
		fields := map[string]string{}
		for line := range strings.Lines(string(data)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			fields[key] = value
		}
		// user, user-early (root), user-light; not manager, greeter, background
		if strings.HasPrefix(fields["CLASS"], "user") && fields["STATE"] != "closing" {
			return cmp.Or(fields["USER"], "someone")
		}
	}
	return ""
}
