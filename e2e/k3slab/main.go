// Command k3slab stands in for the K3s binary in end-to-end tests: K3s' command
// line and join protocol over upstream Kubernetes and etcd, with nodes that run
// no containers. README.md says what is real and what is not.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"k8s.io/component-base/version"
	kubectl "k8s.io/kubectl/pkg/cmd"

	"github.com/muster-edge/muster/e2e/k3slab/agent"
	"github.com/muster-edge/muster/e2e/k3slab/datastore"
	"github.com/muster-edge/muster/e2e/k3slab/flags"
	"github.com/muster-edge/muster/e2e/k3slab/server"
)

// stopGrace is how long a component may take to end after SIGTERM.
const stopGrace = 4 * time.Second

const usage = `usage: k3s server|agent [flags]
       k3s kubectl ARGS...
       k3s --version
`

func main() { os.Exit(run(os.Args)) }

func run(args []string) int {
	slog.SetDefault(slog.New(newLogHandler(os.Stderr)))
	if filepath.Base(args[0]) == "kubectl" {
		return runKubectl(args)
	}
	if len(args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		return 1
	}
	switch command := args[1]; command {
	case "server":
		return runComponent(command, args[2:], server.Run)
	case "agent":
		return runComponent(command, args[2:], agent.Run)
	case "kubectl":
		return runKubectl(args[1:])
	case "lab-etcd":
		return runEtcd(args[2:])
	case "--version", "-v", "-version", "version":
		v := version.Get()
		fmt.Printf("k3s version %s (k3slab)\ngo version %s\n", v.GitVersion, runtime.Version())
		return 0
	case "--help", "-h", "help":
		fmt.Print(usage)
		return 0
	default:
		slog.Error("unknown command", "command", command)
		return 1
	}
}

// runComponent runs until the component ends or, after a signal, for stopGrace
// more: parts of upstream Kubernetes never end.
func runComponent(command string, args []string, component func(context.Context, *flags.Options) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	options, err := flags.Parse(args, os.Getenv, func(w string) { slog.Warn(w) })
	if err == nil {
		err = useTemporaryDir(options)
	}
	if err != nil {
		return fatal(err)
	}
	slog.Info("Starting k3s "+version.Get().GitVersion+" (k3slab)", "command", command)
	ended := make(chan error, 1)
	go func() { ended <- component(ctx, options) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		select {
		case err = <-ended:
		case <-time.After(stopGrace):
			slog.Warn("not everything has stopped in time", "grace", stopGrace)
		}
	}
	if err != nil && ctx.Err() == nil {
		return fatal(err)
	}
	return 0
}

// runEtcd is not K3s's: an etcd for tests of an external datastore, in DIR, at a
// client URL such as http://10.0.0.1:2379.
func runEtcd(args []string) int {
	if len(args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: k3s lab-etcd DIR URL")
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := datastore.RunAlone(ctx, args[0], args[1]); err != nil {
		return fatal(err)
	}
	return 0
}

// useTemporaryDir must come before any goroutine: the environment is process-wide.
func useTemporaryDir(options *flags.Options) error {
	dataDir, err := options.DataDir()
	if err != nil {
		return err
	}
	dir, err := agent.TemporaryDir(dataDir)
	if err != nil {
		return err
	}
	return os.Setenv("TMPDIR", dir)
}

func runKubectl(args []string) int {
	if os.Getenv("KUBECONFIG") == "" {
		if err := os.Setenv("KUBECONFIG", "/etc/rancher/k3s/k3s.yaml"); err != nil {
			return fatal(err)
		}
	}
	os.Args = args
	if err := kubectl.NewDefaultKubectlCommand().Execute(); err != nil {
		return 1
	}
	return 0
}

func fatal(err error) int {
	slog.Log(context.Background(), levelFatal, err.Error())
	return 1
}

const levelFatal = slog.LevelError + 4

// newLogHandler writes lines like K3s': time="..." level=info msg="...".
func newLogHandler(w io.Writer) slog.Handler {
	return slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) > 0 || a.Key != slog.LevelKey {
			return a
		}
		switch level := a.Value.Any().(slog.Level); level {
		case slog.LevelWarn:
			return slog.String(a.Key, "warning")
		case levelFatal:
			return slog.String(a.Key, "fatal")
		default:
			return slog.String(a.Key, strings.ToLower(level.String()))
		}
	}})
}
