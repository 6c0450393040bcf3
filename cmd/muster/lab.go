package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/e2e/lab"
	"github.com/muster-edge/muster/node"
)

// newLabCommand is `muster lab`: a whole site in namespaces of this machine.
func newLabCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "lab",
		Short: "Run a whole site on this machine, each node in its own namespaces",
		Long: "Run a whole site on this machine: every node is a process tree in its own network, mount, PID and UTS\n" +
			"namespaces, joined by a bridge. Nodes are n1 to nN. Needs root; touches nothing outside its directory.",
	}
	dir := root.PersistentFlags().String("dir", "", "directory of the lab (default $MUSTER_LAB_DIR, else .cache/lab)")
	open := func() (*lab.Lab, error) { return lab.Open(*dir) }
	root.AddCommand(
		labUp(dir), labStatus(open), labExec(open), labKubectl(dir), labKill(open), labStart(open), labRestart(open),
		labWipe(open), labAdd(open), labPartition(open), labHeal(open), labNet(open), labLogs(open), labDown(dir),
	)
	return root
}

// newLabInitCommand is the hidden command by which muster becomes PID 1 of a node.
func newLabInitCommand() *cobra.Command {
	return &cobra.Command{
		Use: lab.InitCommand, Hidden: true, DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error { return labError(lab.Init(args)) },
	}
}

type openLab func() (*lab.Lab, error)

func labUp(dir *string) *cobra.Command {
	opts := lab.Options{}
	var configs, nat []string
	var until string
	cmd := &cobra.Command{
		Use:   "up --nodes N --config FILE",
		Short: "Start a lab; one that is up in the same directory is replaced",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if opts.NAT, err = lab.ParseNAT(nat); err != nil {
				return labError(err)
			}
			if opts.Nodes < 1 { // where 0 would be the default
				return labError(fmt.Errorf("%w: --nodes %d: a lab has 1 to %d", lab.ErrUsage, opts.Nodes, lab.MaxNodes))
			}
			opts.Dir, opts.Until, opts.Progress = *dir, lab.Until(until), cmd.ErrOrStderr()
			if opts.K3s == "" {
				opts.K3s = os.Getenv("K3S_BIN")
			}
			if err := readLabConfigs(configs, &opts); err != nil {
				return labError(err)
			}
			l, err := lab.New(opts)
			if err != nil {
				return labError(err)
			}
			return labError(l.Up(cmd.Context()))
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&opts.Nodes, "nodes", 1, "how many nodes")
	flags.StringArrayVar(&configs, "config", nil, "cloud-config of all nodes, or nI=FILE for one node")
	flags.StringVar(&opts.Bridge, "bridge", "", "name of a bridge to share with the other labs that name it")
	flags.StringVar(&until, "until", "", "wait until all nodes are seen, have roles, or are ready")
	flags.DurationVar(&opts.Timeout, "timeout", 5*time.Minute, "how long to wait; afterwards the lab stays up and the exit code is 3")
	flags.StringVar(&opts.K3s, "k3s", "", "k3s binary of the nodes (default $K3S_BIN, else none)")
	flags.BoolVar(&opts.OneByOne, "one-by-one", false, "start each node when the one before it answers")
	flags.StringSliceVar(&nat, "nat", nil, "nodes behind a router of their own, by number: I or I:KIND; KIND is full, restricted (default) or symmetric")
	return cmd
}

// readLabConfigs reads the files named by --config: one for all nodes, any number of nI=FILE.
func readLabConfigs(values []string, opts *lab.Options) error {
	opts.NodeConfig = map[string][]byte{}
	for _, value := range values {
		name, file, own := strings.Cut(value, "=")
		if !own {
			file = value
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("%w: --config: %w", lab.ErrUsage, err)
		}
		if own {
			opts.NodeConfig[name] = raw
			continue
		}
		if opts.Config != nil {
			return fmt.Errorf("%w: --config: two files for all nodes; for one node it is nI=FILE", lab.ErrUsage)
		}
		opts.Config = raw
	}
	return nil
}

func labStatus(open openLab) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what every node says about itself",
		Args:  cobra.NoArgs,
	}
	format := output(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		asJSON, err := format()
		if err != nil {
			return err
		}
		l, err := open()
		if err != nil {
			return labError(err)
		}
		rows, err := l.Status(cmd.Context())
		if err != nil {
			return labError(err)
		}
		if asJSON {
			encoder := json.NewEncoder(cmd.OutOrStdout())
			encoder.SetIndent("", "  ")
			return encoder.Encode(rows)
		}
		return printLabTable(cmd.OutOrStdout(), rows)
	}
	return cmd
}

func printLabTable(w io.Writer, rows []lab.NodeStatus) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tHOSTNAME\tROLE\tADDRESS\tPATH\tPHASE\tREADY\tK3S\tPID")
	for _, r := range rows {
		ready := "no"
		if r.Ready {
			ready = "yes"
		}
		pid := "-"
		if r.PID != 0 {
			pid = fmt.Sprint(r.PID)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Node, dash(r.Hostname), dash(r.Role), dash(r.Address),
			dash(r.Path), dash(r.Phase), ready, dash(r.K3sVersion), pid)
	}
	return table.Flush()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func labExec(open openLab) *cobra.Command {
	cmd := &cobra.Command{
		Use:                   "exec NODE -- CMD [ARG…]",
		Short:                 "Run a command in a node; its exit code becomes this one's",
		Args:                  cobra.MinimumNArgs(2),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := open()
			if err != nil {
				return labError(err)
			}
			command := args[1:]
			if command[0] == "--" { // stays when flags may not follow NODE
				command = command[1:]
			}
			return runInLab(cmd, command, func(ctx context.Context, c lab.Command) error { return l.Run(ctx, args[0], c) })
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func labKubectl(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl [ARG…]",
		Short:              "Run kubectl as the cluster's administrator, in a master that is ready",
		DisableFlagParsing: true, // all flags are kubectl's, but for a --dir in front
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 && args[0] == "--dir" {
				*dir, args = args[1], args[2:]
			} else if len(args) > 0 && strings.HasPrefix(args[0], "--dir=") {
				*dir, args = strings.TrimPrefix(args[0], "--dir="), args[1:]
			}
			l, err := lab.Open(*dir)
			if err != nil {
				return labError(err)
			}
			return runInLab(cmd, args, l.Kubectl)
		},
	}
}

// runInLab hands the terminal to a command in a node. The terminal sends ^C to that command itself, so this process only has to
// outlive it; being told to end, it ends the command too.
func runInLab(cmd *cobra.Command, args []string, run func(context.Context, lab.Command) error) error {
	ctx, stop := signal.NotifyContext(context.WithoutCancel(cmd.Context()), syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, syscall.SIGINT)
	defer signal.Stop(interrupts)
	return labError(run(ctx, lab.Command{Args: args, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}))
}

func labKill(open openLab) *cobra.Command {
	var agent bool
	var name string
	cmd := &cobra.Command{
		Use:   "kill NODE",
		Short: "Cut the power of a node; with --agent, end only its agent",
		Long: "Cut the power of a node: every process ends by SIGKILL, what is on disk stays. Another signal goes to every\n" +
			"process of the node and leaves the power on; with --agent it goes to the agent alone.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			sig := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG"))
			if sig == 0 {
				return labError(fmt.Errorf("%w: --signal %q is not a signal", lab.ErrUsage, name))
			}
			l, err := open()
			if err != nil {
				return labError(err)
			}
			if agent {
				return labError(l.KillAgent(cmd.Context(), args[0], sig))
			}
			return labError(l.Signal(cmd.Context(), args[0], sig))
		},
	}
	cmd.Flags().BoolVar(&agent, "agent", false, "only the agent")
	cmd.Flags().StringVar(&name, "signal", "KILL", "signal to send")
	return cmd
}

func labStart(open openLab) *cobra.Command {
	return &cobra.Command{
		Use:   "start NODE…",
		Short: "Boot nodes that are off, and start agents that do not run",
		Args:  cobra.MinimumNArgs(1),
		RunE:  onLab(open, (*lab.Lab).Start),
	}
}

func labRestart(open openLab) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "restart NODE…|--all",
		Short: "Cut the power of nodes and give it back",
		RunE: func(cmd *cobra.Command, args []string) error {
			if all != (len(args) == 0) {
				return labError(fmt.Errorf("%w: restart: name nodes, or say --all", lab.ErrUsage))
			}
			return onLab(open, (*lab.Lab).Restart)(cmd, args)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all nodes at once")
	return cmd
}

func labWipe(open openLab) *cobra.Command {
	return &cobra.Command{
		Use:   "wipe NODE…",
		Short: "Cut the power of nodes and empty their disks but for /oem; `start` boots them",
		Args:  cobra.MinimumNArgs(1),
		RunE:  onLab(open, (*lab.Lab).Wipe),
	}
}

// onLab is a verb whose arguments are nodes.
func onLab(open openLab, do func(*lab.Lab, context.Context, ...string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		l, err := open()
		if err != nil {
			return labError(err)
		}
		return labError(do(l, cmd.Context(), args...))
	}
}

func labAdd(open openLab) *cobra.Command {
	return &cobra.Command{
		Use:   "add COUNT",
		Short: "Start more nodes with the configuration of the first ones",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var count int
			if _, err := fmt.Sscanf(args[0]+"\n", "%d\n", &count); err != nil {
				return labError(fmt.Errorf("%w: add %q: want a number", lab.ErrUsage, args[0]))
			}
			l, err := open()
			if err != nil {
				return labError(err)
			}
			names, err := l.Add(cmd.Context(), count)
			if err != nil {
				return labError(err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), strings.Join(names, " "))
			return nil
		},
	}
}

func labPartition(open openLab) *cobra.Command {
	var oneWay bool
	cmd := &cobra.Command{
		Use:   "partition n1,n2|n3,n4",
		Short: "Cut the LAN into groups; nodes in no group reach everybody",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			groups, err := lab.ParsePartition(args[0])
			if err != nil {
				return labError(err)
			}
			l, err := open()
			if err != nil {
				return labError(err)
			}
			if oneWay {
				return labError(l.CutOneWay(cmd.Context(), groups...))
			}
			return labError(l.Partition(cmd.Context(), groups...))
		},
	}
	cmd.Flags().BoolVar(&oneWay, "one-way", false, "only what a group sends to later ones is lost")
	return cmd
}

func labHeal(open openLab) *cobra.Command {
	return &cobra.Command{
		Use:   "heal",
		Short: "End the partition, all losses and delays, plug in all cables",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := open()
			if err != nil {
				return labError(err)
			}
			return labError(l.Heal(cmd.Context()))
		},
	}
}

func labNet(open openLab) *cobra.Command {
	var down, up bool
	var loss float64
	var delay time.Duration
	var drop string
	cmd := &cobra.Command{
		Use:   "net NODE",
		Short: "Pull or plug in the cable of a node, or make its link lose or delay frames",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			change := lab.LinkChange{}
			if up || down {
				change.Down = &down
			}
			if cmd.Flags().Changed("loss") {
				change.Loss = &loss
			}
			if cmd.Flags().Changed("delay") {
				change.Delay = &delay
			}
			if cmd.Flags().Changed("drop") {
				direction := lab.Direction(drop)
				if drop == "none" {
					direction = lab.DropNone
				}
				change.Drop = &direction
			}
			if change == (lab.LinkChange{}) {
				return labError(fmt.Errorf("%w: net: say --down, --up, --loss, --delay or --drop", lab.ErrUsage))
			}
			l, err := open()
			if err != nil {
				return labError(err)
			}
			return labError(l.Link(cmd.Context(), args[0], change))
		},
	}
	cmd.Flags().BoolVar(&down, "down", false, "pull the cable")
	cmd.Flags().BoolVar(&up, "up", false, "plug it in again")
	cmd.Flags().Float64Var(&loss, "loss", 0, "percent of frames to lose, each way")
	cmd.Flags().DurationVar(&delay, "delay", 0, "delay of each frame, each way")
	cmd.Flags().StringVar(&drop, "drop", "", "lose everything that the node sends (out) or gets (in); none ends it")
	cmd.MarkFlagsMutuallyExclusive("down", "up")
	return cmd
}

func labLogs(open openLab) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs NODE",
		Short: "Show what a node's agent wrote",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := open()
			if err != nil {
				return labError(err)
			}
			return labError(l.Logs(cmd.Context(), args[0], cmd.OutOrStdout(), follow))
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on as the agent writes")
	return cmd
}

func labDown(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End the lab and remove everything it wrote",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.At(*dir)
			if err != nil {
				return labError(err)
			}
			return labError(l.Down(cmd.Context()))
		},
	}
}

// labError gives err the exit code of DESIGN §14, or that of the command that ran in a node.
func labError(err error) error {
	if err == nil {
		return nil
	}
	var exit *lab.ExitError
	if errors.As(err, &exit) && exit.Code != notFound {
		return &node.ExitError{Code: exit.Code, Err: errors.New("")} // the command has said itself why it failed
	}
	return &node.ExitError{Code: lab.ExitCode(err), Err: err}
}

// notFound is a shell's exit code for a command that does not exist.
const notFound = 127
