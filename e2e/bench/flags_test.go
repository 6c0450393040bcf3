package main

import (
	"flag"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/e2e/bench/suite"
)

func TestDefaultsMeasureEverything(t *testing.T) {
	config, err := parse(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, suite.Measurements, config.Measurements)
	require.Equal(t, suite.Contestants, config.Contestants)
	require.Equal(t, []int{3, 5, 10, 20}, config.Nodes)
	require.Equal(t, []int{3, 5, 10}, config.EdgeVPNNodes)
	require.Equal(t, 10, config.IdleNodes)
	require.Equal(t, 20*time.Second, config.Idle.Settle)
	require.Equal(t, time.Minute, config.Idle.Window)
	require.Equal(t, "make bench", config.Repeat)

	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	require.Equal(t, filepath.Join(root, "bin/muster"), config.Muster, "paths are relative to the repository")
	require.Equal(t, filepath.Join(root, "docs/BENCHMARKS.md"), config.Out)
	require.Equal(t, filepath.Join(root, "e2e/bench/peers"), config.Peers)
}

func TestFlagsNarrowTheRunAndAreRepeatable(t *testing.T) {
	config, err := parse(t.Context(), strings.Fields("--only idle,throughput --peers muster --edgevpn-nodes 20 --out /tmp/x.md"))
	require.NoError(t, err)
	require.Equal(t, []string{"idle", "throughput"}, config.Measurements)
	require.Equal(t, []string{"muster"}, config.Contestants)
	require.Equal(t, []int{20}, config.EdgeVPNNodes)
	require.Equal(t, "/tmp/x.md", config.Out)
	require.Equal(t, `make bench BENCH_ARGS="--only idle,throughput --peers muster --edgevpn-nodes 20 --out /tmp/x.md"`, config.Repeat)
}

func TestQuickIsSmall(t *testing.T) {
	config, err := parse(t.Context(), []string{"--quick"})
	require.NoError(t, err)
	require.Equal(t, []int{3}, config.Nodes)
	require.Equal(t, 3, config.IdleNodes)
	require.Equal(t, 1, config.Throughput.Rounds)
}

func TestWrongFlagsAreRefused(t *testing.T) {
	for arguments, want := range map[string]string{
		"--only speed":         `--only: unknown "speed", want some of throughput,convergence,idle`,
		"--peers tinc":         `--peers: unknown "tinc"`,
		"--nodes 3,x":          `--nodes: "x" is not a number of nodes`,
		"--nodes 1":            `--nodes: "1" is not a number of nodes from 2 to 200`,
		"--edgevpn-nodes 1000": `--edgevpn-nodes: "1000"`,
		"throughput":           `unexpected argument "throughput"`,
	} {
		_, err := parse(t.Context(), strings.Fields(arguments))
		require.ErrorContains(t, err, want)
	}
	_, err := parse(t.Context(), []string{"-h"})
	require.ErrorIs(t, err, flag.ErrHelp)
}

func TestBenchRunsInsideTheRepositoryOnly(t *testing.T) {
	t.Chdir(t.TempDir())
	_, err := parse(t.Context(), nil)
	require.ErrorContains(t, err, "run bench inside of it")
}
