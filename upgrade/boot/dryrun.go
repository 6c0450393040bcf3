package boot

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// DryRun is muster-init when it is not PID 1: it prints the plan for a command line (this machine's by default) and for layout files, with
// devices named by their labels. It returns the exit code.
func DryRun(args []string, out, errs io.Writer) int {
	flags := flag.NewFlagSet("muster-init", flag.ContinueOnError)
	flags.SetOutput(errs)
	dry := flags.Bool("dry-run", false, "print the steps of a boot, do none")
	line := flags.String("cmdline", "", "kernel command line (default: /proc/cmdline)")
	dir := flags.String("layout", "/run/cos", "folder of the layout files")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if !*dry || flags.NArg() > 0 {
		fmt.Fprintln(errs, "muster-init: is /init of an initramfs; elsewhere there is only --dry-run")
		return 2
	}
	if *line == "" {
		data, err := os.ReadFile("/proc/cmdline")
		if err != nil {
			fmt.Fprintln(errs, "muster-init:", err)
			return 1
		}
		*line = string(data)
	}
	in := Input{CommandLine: *line, Devices: map[string]string{}}
	for _, name := range LayoutFiles {
		data, _ := os.ReadFile(filepath.Join(*dir, name)) // one that cannot be read is none, as at boot
		in.Layout = append(in.Layout, data)
	}
	for _, label := range labels(in.Layout) {
		in.Devices[label] = "LABEL=" + label
	}
	if c, err := ParseCommandLine(*line); err == nil {
		in.Devices[c.Label] = "LABEL=" + c.Label
	}
	steps, err := Plan(in)
	if err != nil {
		fmt.Fprintln(errs, "muster-init:", err)
		return 1
	}
	for _, s := range steps {
		fmt.Fprintln(out, s)
	}
	return 0
}
