package grub

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
)

// emulator runs the script in GRUB itself, as a program (grub-emu), on three small file systems.
type emulator struct {
	dir   string
	slots map[SlotView]string
}

func good(id string) SlotView    { return SlotView{ID: id, Match: true} }
func refused(id string) SlotView { return SlotView{ID: id, Match: true, Refused: true} }

func newEmulator(t *testing.T) *emulator {
	e := &emulator{t.TempDir(), map[SlotView]string{}}
	for _, id := range []string{idA, idB, idC, "short"} {
		for _, view := range []SlotView{good(id), {ID: id}, refused(id)} {
			e.slots[view] = filepath.Join(e.dir, fmt.Sprintf("%.8s-%v-%v.img", id, view.Match, view.Refused))
			makeSlot(t, e.slots[view], view)
		}
	}
	return e
}

func tool(t *testing.T, name string, args ...string) string {
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return string(out)
}

// grubEmu runs GRUB until it halts and returns what it showed. GRUB reads keys from a terminal, which is ours: script(1)
// stops itself, for ever, when the terminal's job control stops GRUB.
func grubEmu(t *testing.T, devices, root, folder string) (console string) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "grub-emu", "-m", devices, "-r", root, "-d", folder)
	cmd.Env = append(os.Environ(), "TERM=xterm")
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
	require.NoError(t, err)
	defer terminal.Close()
	var out strings.Builder
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(&out, terminal)
		read <- err
	}()
	err = cmd.Wait()
	if readErr := <-read; !errors.Is(readErr, syscall.EIO) { // how Linux ends a terminal that nobody holds any more
		require.NoError(t, readErr)
	}
	require.NoError(t, err, "%s", out.String())
	return out.String()
}

func put(t *testing.T, path, text string) {
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
}

func makeSlot(t *testing.T, out string, view SlotView) {
	tree := t.TempDir()
	put(t, tree+"/boot/vmlinuz", "kernel")
	put(t, tree+"/boot/initrd", "initrd")
	kernel := "kernel"
	if !view.Match {
		kernel = "another"
	}
	put(t, tree+"/usr/lib/muster/image/grub.cfg", "set image_id="+view.ID+"\nset image_version=\"1.0\"\n")
	put(t, tree+"/usr/lib/muster/image/boot.sha256", fmt.Sprintf("%x  /boot/vmlinuz\n%x  /boot/initrd\n",
		sha256.Sum256([]byte(kernel)), sha256.Sum256([]byte("initrd"))))
	if view.Refused {
		put(t, tree+"/refused", "")
	}
	tool(t, "mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", tree, out, "1M")
}

// run returns what GRUB decided.
func (e *emulator) run(t *testing.T, env []byte, slots map[string]SlotView) (d Decision, console string) {
	dir, err := os.MkdirTemp(e.dir, "run")
	require.NoError(t, err)
	// What the emulator has no hardware for; everything that decides stays.
	script := string(Config(Options{}))
	for from, to := range map[string]string{
		`(?m)^ +loopback -d .*$`:    "false", // GRUB keeps the device of a kernel that it refused
		`(?m)^ +(linux|initrd) .*$`: "true", `(?m)^ +boot$`: `if [ -e ($$1)/refused ]; then true; else halt; fi`, `(?m)^ +reboot$`: "halt", `(?m)^ +sleep .*$`: "true", `(?m)^(serial|terminal_).*$`: "true",
	} {
		script = regexp.MustCompile(from).ReplaceAllString(script, to)
	}
	put(t, dir+"/state/grub2/grub.cfg", script)
	require.NoError(t, os.MkdirAll(dir+"/oem", 0o755))
	if env != nil {
		put(t, dir+"/oem/grubenv", string(env))
	}
	for slot, view := range slots {
		path := dir + "/state/cOS/" + slot + ".img"
		if slot == SlotRecovery {
			path = dir + "/recovery/cOS/" + slot + ".img"
		}
		data, err := os.ReadFile(e.slots[view])
		require.NoError(t, err)
		put(t, path, string(data))
	}
	require.NoError(t, os.MkdirAll(dir+"/recovery", 0o755))
	devices := ""
	for i, label := range []string{"STATE", "OEM", "RECOVERY"} {
		name := dir + "/" + strings.ToLower(label)
		tool(t, "mkfs.ext4", "-q", "-F", "-L", "COS_"+label, "-d", name, name+".img", "8M")
		devices += fmt.Sprintf("(hd%d) %s.img\n", i, name)
	}
	put(t, dir+"/device.map", devices)
	console = grubEmu(t, dir+"/device.map", "hd0", "/grub2")

	last := console[max(0, strings.LastIndex(console, "MUSTER-GRUB pass over")):] // what was refused did not boot
	if m := regexp.MustCompile(`MUSTER-GRUB boot (\w+) try (\d) (muster.reset)?`).FindStringSubmatch(last); m != nil {
		d.Slot, d.Reset, d.Last = m[1], m[3] != "", strings.Contains(console, "muster.last_resort")
		d.Try, err = strconv.Atoi(m[2])
		require.NoError(t, err)
		d.ID = slots[d.Slot].ID
	}
	if env != nil {
		block, err := exec.Command("grub-fstest", dir+"/oem.img", "cat", "/grubenv").Output()
		require.NoError(t, err)
		if after, err := DecodeEnv(block); err == nil {
			d.Env = &after
			want, err := after.Encode()
			require.NoError(t, err)
			if isEncoded(env) {
				require.Equal(t, string(want), string(block), "GRUB leaves every value where it is")
			}
		}
	}
	require.NoError(t, os.RemoveAll(dir))
	return d, console
}

// isEncoded says whether the block is as Encode writes it.
func isEncoded(block []byte) bool {
	env, err := DecodeEnv(block)
	if err != nil {
		return false
	}
	again, err := env.Encode()
	return err == nil && string(again) == string(block)
}

func TestGRUBDecidesAsTheModelSays(t *testing.T) {
	e := newEmulator(t)
	a, b, c := good(idA), good(idB), good(idC)
	all := map[string]SlotView{SlotActive: a, SlotPassive: b, SlotRecovery: c}
	with := func(slot string, view SlotView) map[string]SlotView {
		slots := map[string]SlotView{SlotActive: a, SlotPassive: b, SlotRecovery: c}
		slots[slot] = view
		return slots
	}
	for name, test := range map[string]struct {
		env   Env
		slots map[string]SlotView
		boots string // SLOT TRY
		fell  string
	}{
		"a good image is not counted":               {Env{Good: []string{idB, idA}}, all, "active 0", ""},
		"a new image is counted":                    {Env{Good: []string{idB}}, all, "active 1", ""},
		"another image's tries do not count":        {Env{Active: Trial{idB, 3}}, all, "active 1", ""},
		"the last try":                              {Env{Active: Trial{idA, 2}}, all, "active 3", ""},
		"after the last try comes passive":          {Env{Good: []string{idB}, Active: Trial{idA, 3}}, all, "passive 0", "active:tries"},
		"nine tries":                                {Env{MaxTries: 9, Active: Trial{idA, 8}}, all, "active 9", ""},
		"nine tries are enough":                     {Env{MaxTries: 9, Active: Trial{idA, 9}}, all, "passive 1", "active:tries"},
		"good wins over full tries":                 {Env{Good: []string{idA}, Active: Trial{idA, 3}}, all, "active 0", ""},
		"both on trial in vain":                     {Env{Active: Trial{idA, 3}, Passive: Trial{idB, 3}}, all, "recovery 0", "passive:tries"},
		"a kernel that does not match":              {Env{Good: []string{idA, idB}}, with(SlotActive, SlotView{ID: idA}), "passive 0", "active:hash"},
		"what does not match is not counted":        {Env{}, with(SlotActive, SlotView{ID: idA}), "passive 1", "active:hash"},
		"an identity that is none":                  {Env{}, with(SlotActive, good("short")), "passive 1", "active:unreadable"},
		"a kernel that GRUB refuses is counted":     {Env{Good: []string{idB}}, with(SlotActive, refused(idA)), "passive 0", "active:refused"},
		"both refused":                              {Env{}, map[string]SlotView{SlotActive: refused(idA), SlotPassive: refused(idB), SlotRecovery: c}, "recovery 0", "passive:refused"},
		"refused after its tries":                   {Env{Active: Trial{idA, 3}}, with(SlotActive, refused(idA)), "passive 1", "active:tries"},
		"passive once, on trial beyond its tries":   {Env{NextEntry: SlotPassive, Passive: Trial{idB, 3}}, all, "passive 4", ""},
		"active once, unreadable":                   {Env{NextEntry: SlotActive}, with(SlotActive, good("short")), "passive 1", "active:unreadable"},
		"recovery once":                             {Env{NextEntry: SlotRecovery}, all, "recovery 0", ""},
		"reset once":                                {Env{NextEntry: EntryStateReset}, all, "recovery 0", ""},
		"the reason stays until it is read":         {Env{Good: []string{idA}, FellBack: "passive:hash"}, all, "active 0", "passive:hash"},
		"no slot at all":                            {Env{}, nil, " 0", "passive:unreadable"},
		"no recovery: the tries begin anew":         {Env{Active: Trial{idA, 3}, Passive: Trial{idB, 3}}, map[string]SlotView{SlotActive: a, SlotPassive: b}, " 0", "passive:tries"},
		"no recovery when it is asked for":          {Env{NextEntry: SlotRecovery, Active: Trial{idA, 3}}, map[string]SlotView{SlotActive: a}, " 0", ""},
		"only recovery":                             {Env{}, map[string]SlotView{SlotRecovery: c}, "recovery 0", "passive:unreadable"},
		"one image in both slots, each on its own":  {Env{Active: Trial{idA, 3}}, with(SlotPassive, a), "passive 1", "active:tries"},
		"passive does not match and is not counted": {Env{NextEntry: SlotPassive}, with(SlotPassive, SlotView{ID: idB}), "active 1", "passive:hash"},
	} {
		t.Run(name, func(t *testing.T) {
			test.env.MaxTries = cmp.Or(test.env.MaxTries, 3)
			test.env.ExtraCmdline = `quiet a\b`
			block, err := test.env.Encode()
			require.NoError(t, err)
			want := Choose(&test.env, test.slots)
			require.Equal(t, test.boots, fmt.Sprint(want.Slot, " ", want.Try))
			require.Equal(t, test.fell, want.Env.FellBack)
			got, console := e.run(t, block, test.slots)
			require.Equal(t, want, got, console)
		})
	}
	t.Run("an environment that cannot be read means passive, uncounted", func(t *testing.T) {
		got, console := e.run(t, []byte(strings.Repeat("x", EnvSize)), all)
		require.Equal(t, Choose(nil, all), got, console)
		require.Equal(t, Decision{Slot: SlotPassive, ID: idB}, got)
	})
	t.Run("no environment, no passive", func(t *testing.T) {
		slots := map[string]SlotView{SlotActive: a, SlotRecovery: c}
		got, console := e.run(t, nil, slots)
		require.Equal(t, Choose(nil, slots), got, console)
		require.Equal(t, SlotActive, got.Slot)
	})
	t.Run("values that make no sense", func(t *testing.T) {
		block := []byte(signature + "good=x" + idA + "y\nactive_id=zz\nactive_tries=77\nmax_tries=0\nnext_entry=rm -rf\nfell_back=so\n")
		block = append(block, strings.Repeat("#", EnvSize-len(block))...)
		env, err := DecodeEnv(block)
		require.NoError(t, err)
		got, console := e.run(t, block, all)
		require.Equal(t, Choose(&env, all).Slot, got.Slot, console)
		require.Equal(t, 1, got.Try)
	})
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			env, slots := random(rand.New(rand.NewPCG(seed, 1)))
			block, err := env.Encode()
			require.NoError(t, err)
			got, console := e.run(t, block, slots)
			require.Equal(t, Choose(&env, slots), got, "%+v %+v %s", env, slots, console)
		})
	}
}

func random(r *rand.Rand) (Env, map[string]SlotView) {
	ids := []string{idA, idB, idC}
	trial := func() Trial { return Trial{ids[r.IntN(3)], r.IntN(5)} }
	env := Env{Active: trial(), Passive: trial(), MaxTries: 1 + r.IntN(4)}
	for _, id := range ids {
		if r.IntN(4) == 0 {
			env.Good = append(env.Good, id)
		}
	}
	env.NextEntry = []string{"", "", "", "", SlotActive, SlotPassive, SlotRecovery}[r.IntN(7)]
	slots := map[string]SlotView{}
	for _, slot := range []string{SlotActive, SlotPassive, SlotRecovery} {
		if r.IntN(5) > 0 {
			id := ids[r.IntN(3)]
			slots[slot] = []SlotView{good(id), good(id), refused(id), {ID: id}}[r.IntN(4)]
		}
	}
	return env, slots
}

// An old disk that is still in the machine has file systems with the same labels.
func TestGRUBStaysOnTheDiskThatItWasStartedFrom(t *testing.T) {
	dir := t.TempDir()
	for name, embed := range map[string]bool{"grub.cfg": false, "what is in the boot loader": true} {
		t.Run(name, func(t *testing.T) {
			devices := ""
			for n, disk := range []string{"old", "new"} {
				file := filepath.Join(dir, disk+".disk")
				require.NoError(t, os.WriteFile(file, nil, 0o600))
				require.NoError(t, os.Truncate(file, 40<<20))
				tool(t, "sgdisk", "-n", "1:1M:+8M", "-n", "2:0:+8M", "-n", "3:0:+8M", file)
				for i, label := range []string{"STATE", "OEM", "RECOVERY"} {
					tree, part := t.TempDir(), filepath.Join(t.TempDir(), "part")
					put(t, tree+"/which", disk)
					script := fmt.Sprintf("echo CHOSEN-%s\nhalt\n", disk)
					if !embed {
						script = strings.SplitAfter(string(Config(Options{})), "search --no-floppy --hint \"$disk,\" --label --set=rec COS_RECOVERY\n")[0] +
							"cat ($state)/which\ncat ($oem)/which\ncat ($rec)/which\nprobe --set=fs --fs-uuid $state\necho UUID $fs\nhalt\n"
						script = regexp.MustCompile(`(?m)^(serial|terminal_).*$`).ReplaceAllString(script, "true")
					}
					put(t, tree+"/grub2/grub.cfg", script)
					put(t, tree+"/embedded/grub.cfg", embedded)
					tool(t, "mkfs.ext4", "-q", "-F", "-L", "COS_"+label, "-U", fmt.Sprintf("00000000-0000-0000-0000-0000000000%d%d", n, i), "-d", tree, part, "8M")
					tool(t, "dd", "status=none", "conv=notrunc", "bs=1M", "if="+part, "of="+file, fmt.Sprintf("seek=%d", 1+8*i))
				}
				devices += fmt.Sprintf("(hd%d) %s\n", n, file)
			}
			put(t, dir+"/device.map", devices)
			for root, want := range map[string]string{"hd0,gpt1": "old", "hd1,gpt1": "new"} {
				folder := "/grub2"
				if embed {
					folder = "/embedded"
				}
				out := grubEmu(t, dir+"/device.map", root, folder)
				if embed {
					require.Contains(t, out, "CHOSEN-"+want)
					continue
				}
				require.Equal(t, 3, strings.Count(out, want), "%s", out)
				require.Contains(t, out, "UUID 00000000-0000-0000-0000-0000000000"+root[2:3]+"0")
			}
		})
	}
}
