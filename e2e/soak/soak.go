package soak

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/muster-edge/muster/e2e/lab"
)

const (
	startNodes = 5
	maxNodes   = 8
	masters    = 3
	// settleTime is how long the site may take after an action, kubernetesTime with Kubernetes. They are deadlines for a busy machine,
	// not expectations.
	settleTime     = 4 * time.Minute
	kubernetesTime = 12 * time.Minute
)

// soak is one run.
type soak struct {
	*lab.Lab
	out  io.Writer
	rand *rand.Rand

	actions    int
	violations int
	leaks      int
	wiped      int
	token      string // the site's present one
	k3s        string // the binary that the nodes run; "": no Kubernetes

	seen  history
	first map[string]usage // agent's use when the site had settled
}

// Main runs a soak and returns the exit code: 0 if nothing was violated and nothing leaks.
func Main(args []string, out io.Writer) int {
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	flags.SetOutput(out)
	duration := flags.Duration("d", 10*time.Minute, "for how long")
	seed := flags.Uint64("seed", 1, "what is done, to whom and when")
	binary := flags.String("muster", filepath.Join("bin", "muster"), "the binary that the nodes run")
	k3s := flags.String("k3s", "", "the k3s that the nodes run (default: no Kubernetes)")
	dir := flags.String("dir", "", "directory of the lab (default: a temporary one)")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	s := &soak{out: out, rand: rand.New(rand.NewPCG(*seed, 0x736f616b)), seen: newHistory(), k3s: *k3s}
	fmt.Fprintf(out, "soak: d=%s seed=%d\n", *duration, *seed)
	err := s.run(ctx, *duration, *binary, *dir)
	if err != nil {
		s.violate("%v", err)
	}
	fmt.Fprintf(out, "soak: d=%s seed=%d actions=%d violations=%d leaks=%d\n", *duration, *seed, s.actions, s.violations, s.leaks)
	if s.violations+s.leaks > 0 {
		return 1
	}
	return 0
}

func (s *soak) say(format string, args ...any) {
	fmt.Fprintf(s.out, "%s %s\n", time.Now().UTC().Format("15:04:05"), fmt.Sprintf(format, args...))
}

func (s *soak) violate(format string, args ...any) {
	s.violations++
	s.say("VIOLATION: "+format, args...)
}

func (s *soak) run(ctx context.Context, d time.Duration, binary, dir string) (err error) {
	if dir == "" {
		parent, err := os.MkdirTemp("", "muster-soak-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(parent) }() // a lab that is down has left nothing else in it
		dir = filepath.Join(parent, "lab")
	}
	token, err := exec.CommandContext(ctx, binary, "token", "generate").Output()
	if err != nil {
		return fmt.Errorf("generate a token: %w", err)
	}
	s.token = strings.TrimSpace(string(token))
	s.Lab, err = lab.New(lab.Options{
		Dir: dir, Nodes: startNodes, Config: s.config(), Binary: binary, K3s: s.k3s, Until: lab.UntilRoles, Timeout: settleTime,
	})
	if err != nil {
		return err
	}
	defer func() {
		if s.violations > 0 {
			s.tellWhy()
		}
		down, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err = errors.Join(err, s.Down(down))
	}()
	if err := s.Up(ctx); err != nil {
		return err
	}
	if err := s.settle(ctx, "the site has formed"); err != nil {
		return err
	}
	if s.first, err = s.usage(ctx); err != nil {
		return err
	}
	for end := time.Now().Add(d); time.Now().Before(end) && s.violations == 0; {
		what, err := s.act(ctx)
		if err != nil {
			return err
		}
		if err := s.settle(ctx, what); err != nil {
			return err
		}
	}
	return s.lookForLeaks(ctx)
}

// config is the configuration of three masters and workers. The stand-in for K3s would be most of the load, so a soak is without
// Kubernetes if nobody says otherwise.
func (s *soak) config() []byte {
	return fmt.Appendf(nil, `#cloud-config
p2p:
  network_token: %s
  disable_dht: true
  minimum_nodes: %d
  auto:
    ha:
      enable: true
      master_nodes: %d
k3s:
  enabled: %t
`, s.token, startNodes, masters-1, s.k3s != "")
}

// settle waits until the site is whole again and checks it.
func (s *soak) settle(ctx context.Context, what string) error {
	begun, patience := time.Now(), settleTime
	if s.k3s != "" {
		patience = kubernetesTime
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not settled after %s", patience))
	defer cancel()
	for {
		problem := s.check(ctx)
		if problem == nil {
			s.say("%s: settled after %s", what, time.Since(begun).Round(time.Second))
			return nil
		}
		var broken *brokenPromise
		if errors.As(problem, &broken) {
			return fmt.Errorf("after %s: %w", what, broken)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", what, context.Cause(ctx), problem)
		case <-time.After(2 * time.Second):
		}
	}
}

func (s *soak) tellWhy() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	rows, err := s.Status(ctx)
	if err != nil {
		s.say("status: %v", err)
		return
	}
	for _, row := range rows {
		why, err := s.Why(ctx, row.Node)
		if err != nil {
			why = err.Error()
		}
		s.say("%s %s %q %s ready=%v: %s", row.Node, row.Phase, row.Role, row.Address, row.Ready, strings.TrimSpace(why))
	}
}
