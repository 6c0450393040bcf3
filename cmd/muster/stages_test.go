package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/node"
	"github.com/muster-edge/muster/node/config"
)

func TestAStageRunsWithoutATokenAndWithItsBeforeAndAfter(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	file := write(t, `#cloud-config
stages:
  fs.after: [{commands: ["echo three >>`+out+`"]}]
  fs: [{name: mine, commands: ["echo two >>`+out+`"]}]
  fs.before: [{commands: ["echo one >>`+out+`"]}]
  boot: [{commands: ["echo never >>`+out+`"]}]
`)
	r := muster(t, "", "stages", "run", "fs", "--config", file)
	require.Equal(t, result{}, r)
	said, err := os.ReadFile(out)
	require.NoError(t, err)
	require.Equal(t, "one\ntwo\nthree\n", string(said))

	require.Equal(t, result{}, muster(t, "", "stages", "run", "rootfs", "--config", file), "nobody wrote it")
}

func TestAFailedStepOfAStageIsNamedAndTheOthersRun(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	file := write(t, "#cloud-config\nstages: {boot: [{name: bad, commands: [exit 3]}, {name: good, commands: ['touch "+out+"']}]}\n")
	r := muster(t, "", "stages", "run", "boot", "--config", file)
	require.Equal(t, node.ExitFailed, r.code)
	require.Contains(t, r.complain, `step "bad"`)
	require.FileExists(t, out)
}

func TestAStageOfAWrongConfigurationIsNotRun(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	file := write(t, "#cloud-config\np2p: {rolle: x, role: 7}\nstages: {boot: [{commands: ['touch "+out+"']}]}\n")
	require.Equal(t, node.ExitUsage, muster(t, "", "stages", "run", "boot", "--config", file).code)
	require.NoFileExists(t, out)
	require.Equal(t, node.ExitUsage, muster(t, "", "stages", "run").code)
}

func TestTheImagesOwnStagesRunWhateverTheOperatorWrote(t *testing.T) {
	image, oem, out := t.TempDir(), t.TempDir(), t.TempDir()
	put := func(dir, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte("#cloud-config\n"+text), 0o600))
	}
	put(image, "stages: {boot: [{commands: ['touch "+out+"/image']}]}\n")
	put(oem, "p2p: {role: 7}\nstages: {boot: [{commands: ['touch "+out+"/mine']}]}\n")
	src := config.Sources{Dirs: []string{image, oem}}
	var exit *node.ExitError
	require.ErrorAs(t, runStage(t.Context(), "boot", src, true), &exit)
	require.Equal(t, node.ExitUsage, exit.Code)
	require.FileExists(t, out+"/image")
	require.NoFileExists(t, out+"/mine")

	put(oem, "stages: {boot: [{commands: ['touch "+out+"/mine']}]}\n")
	require.NoError(t, runStage(t.Context(), "boot", src, true))
	require.FileExists(t, out+"/mine")
}

func TestTheStagesOfAConfigurationAreListed(t *testing.T) {
	file := write(t, "#cloud-config\nstages: {network: [{name: a, commands: [x]}, {commands: [y]}], boot.before: [{name: b}]}\n")
	require.Equal(t, "boot.before: b\nnetwork: a, step 2\n", muster(t, "", "stages", "list", "--config", file).stdout)
	require.JSONEq(t, `[{"stage": "boot.before", "steps": ["b"]}, {"stage": "network", "steps": ["a", "step 2"]}]`,
		muster(t, "", "stages", "list", "-o", "json", "--config", file).stdout)
	require.Equal(t, "[]\n", muster(t, "", "stages", "list", "-o", "json", "--config", write(t, "#cloud-config\nhostname: a\n")).stdout)
}

func TestAMachineWithoutConfigurationHasItsStagesDone(t *testing.T) {
	s := stageSources(nil)
	require.Equal(t, imageConfigDir, s.Dirs[0], "what the image brings is weakest")
	require.Empty(t, stageSources([]string{"x"}).Dirs)
	require.Equal(t, result{}, muster(t, "", "stages", "run", "rootfs"))
}

func TestHealthRestartsNothingOnAMachineThatIsNotFromASlot(t *testing.T) {
	require.Equal(t, result{}, muster(t, "", "health"))
	require.Equal(t, "1\n", muster(t, "", "features").stdout)
}
