package boot

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// ErrNoState is returned when the file system that holds the slot was not found.
var ErrNoState = errors.New("file system of the slot not found")

// Op is what a step does.
type Op string

// What a step may be. Sources and targets are paths of the initramfs; /run is the same place before and after the move.
const (
	OpMount   Op = "mount"   // Source on Target
	OpLoop    Op = "loop"    // the file Source, through a read-only loop device, on Target
	OpSame    Op = "same"    // refuse a slot mounted on Target whose id is not Options
	OpMove    Op = "move"    // the mount Source to Target
	OpCheck   Op = "check"   // the file system on Source, with the image's e2fsck
	OpGrow    Op = "grow"    // the partition of Source to its disk
	OpResize  Op = "resize"  // the file system on Source, mounted on Target, to its partition
	OpStage   Op = "stage"   // run the stage named Target in the image
	OpOverlay Op = "overlay" // a writable layer below Source over Target
	OpSeed    Op = "seed"    // copy each of Paths from below Source to Target, where it is not there yet
	OpBind    Op = "bind"    // Source on Target
	OpID      Op = "id"      // the machine-id kept in Source, as Target
	OpWrite   Op = "write"   // Target, with Options as its content
	OpReport  Op = "report"  // boot.json to Target
	OpProblem Op = "problem" // note Options
)

// Step is one thing to be done. A failing step ends the boot unless it is Optional: then it is a problem, and Instead, if
// there is one, is done in its place.
type Step struct {
	Op       Op
	Source   string
	Target   string
	Type     string // of the file system
	Options  string // as mount(8) takes them
	Paths    []string
	Optional bool
	Quiet    bool // a failure is not even a problem: the path is not in this image
	Instead  []Step
}

// String is the step as `muster-init --dry-run` prints it.
func (s Step) String() string {
	words := []string{string(s.Op)}
	for _, w := range []string{s.Type, s.Source, s.Target} {
		if w != "" {
			words = append(words, w)
		}
	}
	if s.Options != "" {
		words = append(words, "["+strings.ReplaceAll(strings.TrimSpace(s.Options), "\n", "; ")+"]")
	}
	words = append(words, s.Paths...)
	if s.Optional {
		words = append(words, "(optional)")
	}
	for _, i := range s.Instead {
		words = append(words, "else", i.String())
	}
	return strings.Join(words, " ")
}

// Input is what a plan is made from.
type Input struct {
	CommandLine string
	Layout      [][]byte          // contents of [LayoutFiles], nil before stage rootfs
	Devices     map[string]string // label to device, as far as found
}

const (
	sysroot     = "/sysroot"
	stateMount  = "/run/initramfs/cos-state"
	overlayBase = "/run/overlay"
	tmpfsMode   = "mode=0755,"
	// noPersistent is there when a machine that has data runs without it: an agent would make itself a new identity.
	noPersistent = "/run/muster/no-persistent"
)

// moved are the mounts that muster-init makes for itself and hands to the image.
var moved = []string{"/proc", "/sys", "/dev", "/run"}

// Plan returns the steps from mounted /proc, /sys, /dev and /run to a root file system that is ready to be switched to. The steps up to
// and with stage rootfs depend on no layout: the stage writes it. Errors wrap [ErrCommandLine] or [ErrNoState]; whatever else is
// wrong is a step of kind [OpProblem].
func Plan(in Input) ([]Step, error) {
	c, err := ParseCommandLine(in.CommandLine)
	if err != nil {
		return nil, err
	}
	device := in.Devices[c.Label]
	if device == "" {
		return nil, fmt.Errorf("%w: no device has label %s", ErrNoState, c.Label)
	}
	steps := []Step{
		{Op: OpMount, Source: device, Target: stateMount, Type: "ext4", Options: "ro"},
		{Op: OpLoop, Source: stateMount + c.File, Target: sysroot},
	}
	if c.Image != "" {
		steps = append(steps, Step{Op: OpSame, Target: sysroot, Options: c.Image})
	}
	for _, m := range moved {
		steps = append(steps, Step{Op: OpMove, Source: m, Target: sysroot + m})
	}
	steps = append(steps, Step{
		Op: OpMount, Source: "tmpfs", Target: overlayBase, Type: "tmpfs", Options: "size=25%," + tmpfsMode + "nodev,nosuid",
	})
	for _, name := range sentinels(c) {
		steps = append(steps, Step{Op: OpWrite, Target: "/run/cos/" + name, Options: "1\n"})
	}
	steps = append(steps, oem(in.Devices[labelOEM])...)
	steps = append(steps, Step{Op: OpStage, Target: "rootfs", Optional: true})

	l := NewLayout(in.Layout)
	for _, p := range l.Problems {
		steps = append(steps, Step{Op: OpProblem, Options: p})
	}
	if l.Overlay != "25%" {
		steps = append(steps, Step{
			Op: OpMount, Source: "tmpfs", Target: overlayBase, Type: "tmpfs", Options: "remount,size=" + l.Overlay + "," + tmpfsMode + "nodev,nosuid",
			Optional: true,
		})
	}
	for _, p := range l.Ephemeral {
		if !slices.Contains(l.Persistent, p) {
			steps = append(steps, overlay(p))
		}
	}
	steps = append(steps, volumes(c, l, in.Devices)...)
	steps = append(steps, binds(l)...)
	return append(steps,
		Step{Op: OpMount, Source: "tmpfs", Target: sysroot + "/tmp", Type: "tmpfs", Options: "mode=1777,size=50%,nodev,nosuid", Optional: true},
		Step{Op: OpID, Source: sysroot + pathPersistent + "/etc/machine-id", Target: sysroot + "/etc/machine-id", Optional: true},
		Step{Op: OpStage, Target: "initramfs", Optional: true},
		Step{Op: OpReport, Target: "/run/muster/boot.json", Optional: true},
	), nil
}

// sentinels are the files by which stages and units know what kind of boot this is.
func sentinels(c CommandLine) []string {
	if c.Reset {
		return []string{"autoreset_mode"}
	}
	return []string{c.Slot + "_mode"}
}

func oem(device string) []Step {
	instead := Step{Op: OpMount, Source: "tmpfs", Target: sysroot + "/oem", Type: "tmpfs", Options: "size=16m," + tmpfsMode + "nodev", Optional: true}
	if device == "" {
		return []Step{{Op: OpProblem, Options: "no device has label " + labelOEM}, instead}
	}
	return []Step{
		{Op: OpCheck, Source: device, Optional: true},
		{Op: OpMount, Source: device, Target: sysroot + "/oem", Type: "ext4", Options: "rw,noatime,errors=remount-ro", Optional: true, Instead: []Step{instead}},
	}
}

// overlay keeps each path's layer by name, and layer and work directory in one place as overlayfs wants it.
func overlay(p string) Step {
	return Step{Op: OpOverlay, Source: overlayBase + "/" + flat(p), Target: sysroot + p, Optional: p != "/etc" && p != "/var"}
}

// flat names a path as Kairos does in .state: without the first slash, the others as dashes.
func flat(p string) string { return strings.ReplaceAll(strings.Trim(p, "/"), "/", "-") }

func volumes(c CommandLine, l Layout, devices map[string]string) []Step {
	var steps []Step
	slices.SortStableFunc(l.Volumes, func(a, b Volume) int { return cmp.Compare(a.Path, b.Path) })
	for _, v := range l.Volumes {
		device, target := devices[v.Label], sysroot+v.Path
		instead := Step{Op: OpMount, Source: "tmpfs", Target: target, Type: "tmpfs", Options: "size=25%," + tmpfsMode + "nodev"}
		lost := Step{Op: OpWrite, Target: noPersistent, Options: "1\n"}
		switch {
		case v.Label == labelPersistent && (c.Reset || c.Slot == SlotRecovery):
			steps = append(steps, instead)
		case v.Label == labelPersistent && device == "":
			steps = append(steps, Step{Op: OpProblem, Options: "no device has label " + labelPersistent}, instead, lost)
		case device == "":
			steps = append(steps, Step{Op: OpProblem, Options: "no device has label " + v.Label})
		case v.Label == labelPersistent:
			steps = append(steps,
				Step{Op: OpGrow, Source: device, Optional: true},
				Step{Op: OpCheck, Source: device, Optional: true},
				Step{Op: OpMount, Source: device, Target: target, Type: "ext4", Options: "rw,noatime,errors=remount-ro", Optional: true, Instead: []Step{instead, lost}},
				Step{Op: OpResize, Source: device, Target: target, Optional: true})
		default:
			steps = append(steps,
				Step{Op: OpCheck, Source: device, Optional: true},
				Step{Op: OpMount, Source: device, Target: target, Type: "ext4", Options: "rw,noatime", Optional: true})
		}
	}
	return steps
}

// binds seeds all persistent paths before the first is mounted, so that a path inside another is seeded from the image, too.
func binds(l Layout) []Step {
	state := sysroot + l.State
	steps := []Step{{Op: OpSeed, Source: sysroot, Target: state, Paths: l.Persistent, Optional: true}}
	for _, p := range l.Persistent {
		steps = append(steps, Step{
			Op: OpBind, Source: path.Join(state, bindName(p)), Target: sysroot + p,
			Optional: true, Quiet: slices.Contains(persistentPaths, p),
		})
	}
	return steps
}

func bindName(p string) string { return flat(p) + ".bind" }

// labels are the devices that a plan with this layout asks for, beside the slot's own.
func labels(layout [][]byte) []string {
	all := map[string]bool{labelOEM: true, labelPersistent: true}
	for _, v := range NewLayout(layout).Volumes {
		all[v.Label] = true
	}
	return slices.Sorted(maps.Keys(all))
}
