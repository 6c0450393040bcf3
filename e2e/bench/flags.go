package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-edge/muster/e2e/bench/idle"
	"github.com/muster-edge/muster/e2e/bench/report"
	"github.com/muster-edge/muster/e2e/bench/suite"
	"github.com/muster-edge/muster/e2e/bench/throughput"
)

// parse turns the command line into what is measured. Relative paths are relative to the repository, because `go run
// -C` moves the working directory.
func parse(ctx context.Context, arguments []string) (suite.Config, error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := flags.String("only", strings.Join(suite.Measurements, ","), "measure only these")
	peers := flags.String("peers", strings.Join(suite.Contestants, ","), "measure only these peers")
	quick := flags.Bool("quick", false, "small sites and short runs, to see that everything works; its figures prove nothing")
	out := flags.String("out", "docs/BENCHMARKS.md", "document to write the tables into")
	binary := flags.String("muster", "bin/muster", "the muster binary")
	nodes := flags.String("nodes", "3,5,10,20", "sizes of Muster's sites")
	edgevpnNodes := flags.String("edgevpn-nodes", "3,5,10", "sizes of EdgeVPN's sites, which take 10 s per node to form; 20 is worth a coffee")
	if err := flags.Parse(arguments); err != nil {
		return suite.Config{}, err
	}
	if flags.NArg() > 0 {
		return suite.Config{}, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	root, err := repository()
	if err != nil {
		return suite.Config{}, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return suite.Config{}, fmt.Errorf("find the cache folder: %w", err)
	}
	config := suite.Config{
		Muster:     within(root, *binary),
		Peers:      filepath.Join(root, "e2e/bench/peers"),
		Cache:      filepath.Join(cache, "muster"),
		Out:        within(root, *out),
		Commit:     commit(ctx, root),
		Repeat:     repeat(arguments),
		IdleNodes:  report.BarNodes,
		Idle:       idle.Options{Settle: 20 * time.Second, Window: 60 * time.Second},
		Throughput: throughput.Options{Rounds: 3, Length: 5 * time.Second, Pings: 100, Settle: 3 * time.Second},
		Output:     os.Stdout,
		Log:        os.Stderr,
	}
	if config.Measurements, err = names("only", *only, suite.Measurements); err != nil {
		return suite.Config{}, err
	}
	if config.Contestants, err = names("peers", *peers, suite.Contestants); err != nil {
		return suite.Config{}, err
	}
	if config.Nodes, err = sizes("nodes", *nodes); err != nil {
		return suite.Config{}, err
	}
	if config.EdgeVPNNodes, err = sizes("edgevpn-nodes", *edgevpnNodes); err != nil {
		return suite.Config{}, err
	}
	if *quick {
		config.Nodes, config.EdgeVPNNodes, config.IdleNodes = []int{3}, []int{3}, 3
		config.Idle = idle.Options{Settle: 2 * time.Second, Window: 10 * time.Second}
		config.Throughput = throughput.Options{Rounds: 1, Length: 2 * time.Second, Pings: 20, Settle: time.Second}
	}
	return config, nil
}

// repository finds the root of the repository above the working directory.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		_, err := os.Stat(filepath.Join(dir, "e2e", "bench", "peers"))
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("find the repository: %w", err)
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("find the repository: run bench inside of it")
		}
	}
}

func within(root, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(root, path)
}

// commit names what is measured; empty where git cannot tell. "+" marks a tree with changes.
func commit(ctx context.Context, root string) string {
	printed, err := exec.CommandContext(ctx, "git", "-C", root, "describe", "--always", "--exclude=*", "--dirty=+").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(printed))
}

func repeat(arguments []string) string {
	if len(arguments) == 0 {
		return "make bench"
	}
	return fmt.Sprintf("make bench BENCH_ARGS=%q", strings.Join(arguments, " "))
}

func names(name, list string, known []string) ([]string, error) {
	chosen := strings.Split(list, ",")
	for _, one := range chosen {
		if !slices.Contains(known, one) {
			return nil, fmt.Errorf("--%s: unknown %q, want some of %s", name, one, strings.Join(known, ","))
		}
	}
	return chosen, nil
}

// largest is how many nodes a LAN of the benchmark can hold with ease.
const largest = 200

func sizes(name, list string) ([]int, error) {
	var chosen []int
	for one := range strings.SplitSeq(list, ",") {
		size, err := strconv.Atoi(one)
		if err != nil || size < 2 || size > largest {
			return nil, fmt.Errorf("--%s: %q is not a number of nodes from 2 to %d", name, one, largest)
		}
		chosen = append(chosen, size)
	}
	return chosen, nil
}
