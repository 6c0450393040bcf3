package upgrade

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/muster-edge/muster/upgrade/grub"
)

// cutScenario is an operation during which the power fails.
type cutScenario struct {
	name    string
	disk    func(t testing.TB) testDisk
	boot    Boot
	do      func(m *Machine, o Options) error
	done    func(t testing.TB, d testDisk) // what must hold once it was done, perhaps again
	mayBoot []string                       // versions that may start after a cut
}

func upgradeTo(version string, recovery bool) func(*Machine, Options) error {
	return func(m *Machine, o Options) error {
		o.Recovery, o.Source = recovery, "dir:"+version
		_, err := m.Upgrade(context.Background(), &fakeImage{version: version}, o)
		return err
	}
}

func holds(slot, version string) func(testing.TB, testDisk) {
	return func(t testing.TB, d testDisk) {
		partition := "state"
		if slot == Recovery {
			partition = "recovery"
		}
		at := tempDirIn(t, d.dir)
		mountLoop(t, d.file(partition), at, unix.MS_RDONLY, "noload", func() {
			require.NoError(t, VerifySlot(t.Context(), filepath.Join(at, SlotFile(slot))))
			id, err := ReadSlot(filepath.Join(at, SlotFile(slot)))
			require.NoError(t, err)
			require.Equal(t, version, id.Version)
			require.NoFileExists(t, filepath.Join(at, SlotFile(transitionSlot)))
		})
	}
}

func cutScenarios() []cutScenario {
	fresh := func(t testing.TB) testDisk { return newDisk(t, "v1", "v0") }
	return []cutScenario{
		{
			"upgrade from active", fresh,
			Boot{Slot: Active, Image: idOf("v1")},
			upgradeTo("v2", false),
			func(t testing.TB, d testDisk) { holds(Active, "v2")(t, d); holds(Passive, "v1")(t, d) },
			[]string{"v1", "v2"},
		},
		{
			"upgrade from passive", fresh,
			Boot{Slot: Passive, Image: idOf("v0")},
			upgradeTo("v2", false),
			func(t testing.TB, d testDisk) { holds(Active, "v2")(t, d); holds(Passive, "v0")(t, d) },
			[]string{"v1", "v2"},
		},
		{
			"upgrade of recovery", fresh,
			Boot{Slot: Active, Image: idOf("v1")},
			upgradeTo("v2", true),
			func(t testing.TB, d testDisk) { holds(Recovery, "v2")(t, d); holds(Active, "v1")(t, d) },
			[]string{"v1"},
		},
		{
			"upgrade over a stale transition", func(t testing.TB) testDisk {
				d := fresh(t)
				m := d.start(t, Boot{Slot: Active, Image: idOf("v1")})
				require.NoError(t, withVolume(m.StateDevice, func(v volume) error {
					return v.writable(t.Context(), func() error {
						return os.WriteFile(v.path(transitionSlot), make([]byte, testSlotSize/2), 0o600)
					})
				}))
				m.off()
				return d
			},
			Boot{Slot: Active, Image: idOf("v1")},
			upgradeTo("v3", false),
			func(t testing.TB, d testDisk) { holds(Active, "v3")(t, d); holds(Passive, "v1")(t, d) },
			[]string{"v1", "v3"},
		},
		{
			"reset with a damaged active", func(t testing.TB) testDisk {
				d := fresh(t)
				at := tempDirIn(t, d.dir)
				mountLoop(t, d.file("state"), at, 0, "", func() {
					require.NoError(t, os.Truncate(filepath.Join(at, SlotFile(Active)), testSlotSize/2))
				})
				return d
			},
			Boot{Slot: Recovery, Image: idOf("recovery"), Reset: true},
			func(m *Machine, o Options) error { return m.Reset(context.Background(), o) },
			func(t testing.TB, d testDisk) {
				holds(Active, "recovery")(t, d)
				at := tempDirIn(t, d.dir)
				mountLoop(t, d.file("persistent"), at, unix.MS_RDONLY, "noload", func() { require.NoFileExists(t, filepath.Join(at, "data")) })
				mountLoop(t, d.file("oem"), at, unix.MS_RDONLY, "noload", func() {
					require.FileExists(t, filepath.Join(at, "90_site.yaml"))
					env, err := grub.ReadEnv(filepath.Join(at, "grubenv"))
					require.NoError(t, err)
					require.Empty(t, env.NextEntry)
				})
			},
			[]string{"v0", "recovery"},
		},
	}
}

// cutRounds differ in what the kernel happens to have written back by the time of a cut. One has every step: the race detector,
// under which a round takes seven times as long, need not see more.
func cutRounds() int {
	if underRace {
		return 1
	}
	return 8
}

func TestAPowerCutAtAnyStepLeavesAGoodImageThatStarts(t *testing.T) {
	var total, judged atomic.Int64
	t.Cleanup(func() { // the scenarios have ended then
		t.Logf("power-cut: %d cuts, %d different disks; %d times GRUB and Linux would have seen different images", total.Load(), judged.Load(), mixed.Load())
		if !underRace {
			require.GreaterOrEqual(t, total.Load(), int64(1000))
		}
	})
	for _, s := range cutScenarios() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel() // most of the time is waiting for unmounts
			cuts, different := 0, map[[4]uint64]bool{}
			origin := s.disk(t)
			cutsDir, free := tempDir(t), make(chan struct{}, 12)
			var judges sync.WaitGroup
			defer judges.Wait()
			for round := range cutRounds() {
				work := origin.copyTo(t, filepath.Join(tempDir(t), "work"))
				random := rand.New(rand.NewPCG(uint64(round), 1)) //nolint:gosec // a test that can be repeated
				m := work.start(t, s.boot)
				err := s.do(m.Machine, Options{Step: func(step string) {
					// Memory reaches the disk when the kernel likes; a cut may come before and after.
					for _, writeBack := range []bool{false, true} {
						if writeBack {
							if round == 0 || random.IntN(2) == 0 {
								continue
							}
							require.NoError(t, syncFS(m.OEM))
							mounted, err := filepath.Glob(filepath.Join(m.Run, "*-*"))
							require.NoError(t, err)
							for _, dir := range mounted {
								require.NoError(t, syncFS(dir))
							}
						}
						cuts++
						now := work.snapshot(t)
						if different[now.sum] {
							continue
						}
						different[now.sum] = true
						cut := now.write(t, filepath.Join(cutsDir, fmt.Sprint(cuts)))
						free <- struct{}{}
						judges.Go(func() {
							defer func() { <-free }()
							judge(t, s, cut, fmt.Sprintf("round %d, after %q, write back %v", round, step, writeBack))
							require.NoError(t, os.RemoveAll(cut.dir))
						})
					}
				}})
				require.NoError(t, err)
				m.off()
				s.done(t, work)
			}
			judges.Wait()
			total.Add(int64(cuts))
			judged.Add(int64(len(different)))
			t.Logf("%d cuts", cuts)
		})
	}
}

// judge starts the machine from a disk as the cut left it, and does the operation again.
func judge(t testing.TB, s cutScenario, d testDisk, when string) {
	t.Helper()
	again := d.copyTo(t, filepath.Join(d.dir, "again"))

	decision := d.asGRUB(t)
	require.NotEmpty(t, decision.Slot, "%s: nothing starts", when)
	partition := "state"
	if decision.Slot == Recovery {
		partition = "recovery"
	}
	// Linux replays the journal; what GRUB chose must be whole for it.
	at := tempDirIn(t, d.dir)
	mountLoop(t, d.file(partition), at, unix.MS_RDONLY, "", func() {
		file := filepath.Join(at, SlotFile(decision.Slot))
		require.NoError(t, VerifySlot(t.Context(), file), when)
		id, err := ReadSlot(file)
		require.NoError(t, err)
		if decision.Slot != Recovery {
			require.Contains(t, s.mayBoot, id.Version, when)
		}
		if id.ID != decision.ID {
			mixed.Add(1) // GRUB saw the names from before the swap, Linux those after it
		}
	})

	m := again.start(t, s.boot)
	// The cut may have come after the swap: then the machine runs what it ran, from where that is now.
	err := s.do(m.Machine, Options{})
	m.off()
	require.NoError(t, err, when)
	s.done(t, again)
}

// mixed counts the cuts where the kernel of one image would find the root of the other.
var mixed atomic.Int64
