package p2p

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var (
	machineA = Hardware{ID: "dmi:a", MACs: []string{"02:00:00:00:00:0a"}}
	machineB = Hardware{ID: "dmi:b", MACs: []string{"02:00:00:00:00:0b"}}
)

func TestIdentityIsMadeOnceAndKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	first, outcome, err := OpenIdentity(dir, machineA)
	require.NoError(t, err)
	require.Equal(t, IdentityNew, outcome)
	info, err := os.Stat(filepath.Join(dir, identityFile))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	again, outcome, err := OpenIdentity(dir, machineA)
	require.NoError(t, err)
	require.Equal(t, IdentityKept, outcome)
	require.Equal(t, first.ID(), again.ID())
	require.True(t, first.Ed25519().Equal(again.Ed25519()))
}

func TestDamagedIdentityIsAnErrorAndNeverANewOne(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, identityFile)
	_, _, err := OpenIdentity(dir, machineA)
	require.NoError(t, err)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	other, _, err := OpenIdentity(t.TempDir(), machineA)
	require.NoError(t, err)

	for name, damaged := range map[string][]byte{
		"empty":             {},
		"zeros":             make([]byte, len(whole)),
		"cut":               whole[:len(whole)/2],
		"huge":              append(whole, make([]byte, maxIdentityFile)...),
		"of another key":    bytes.Replace(whole, []byte(other.ID().String()), nil, 1)[:len(whole)-3],
		"key of another ID": bytes.Replace(whole, []byte(`"id": "12D3KooW`), []byte(`"id": "12D3KooX`), 1),
		"without hardware":  []byte(`{"version":1,"id":"x","seed":"","hardware":{}}`),
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(path, damaged, 0o600))
			_, _, err := OpenIdentity(dir, machineA)
			require.ErrorIs(t, err, ErrIdentityDamaged)
			require.ErrorContains(t, err, path)
			left, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, damaged, left)
		})
	}
	require.NoError(t, os.WriteFile(path, bytes.Replace(whole, []byte(`"version": 1`), []byte(`"version": 2`), 1), 0o600))
	_, _, err = OpenIdentity(dir, machineA)
	require.ErrorContains(t, err, "version 2")
}

func TestS6ClonedDiskStartsCleanAsANewNode(t *testing.T) {
	dir := t.TempDir()
	original, _, err := OpenIdentity(dir, machineA)
	require.NoError(t, err)
	fill := func(mark string) {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "ledger", "raft"), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "ledger", "raft", "votes"), []byte(mark), 0o600))
	}
	fill("a's")

	clone, outcome, err := OpenIdentity(dir, machineB)
	require.NoError(t, err)
	require.Equal(t, IdentityReplaced, outcome)
	require.NotEqual(t, original.ID(), clone.ID())
	requireEntries(t, dir, identityFile, replacedDir)
	requireFile(t, filepath.Join(dir, replacedDir, "ledger", "raft", "votes"), "a's")

	// Until the caller has wiped what is elsewhere, it is told again.
	clone, outcome, err = OpenIdentity(dir, machineB)
	require.NoError(t, err)
	require.Equal(t, IdentityReplaced, outcome)
	require.NoError(t, clone.ConfirmReplaced())
	again, outcome, err := OpenIdentity(dir, machineB)
	require.NoError(t, err)
	require.Equal(t, IdentityKept, outcome)
	require.Equal(t, clone.ID(), again.ID())

	// A clone of the clone leaves one copy, not a chain of them.
	fill("b's")
	_, outcome, err = OpenIdentity(dir, machineA)
	require.NoError(t, err)
	require.Equal(t, IdentityReplaced, outcome)
	requireEntries(t, dir, identityFile, replacedDir)
	requireEntries(t, filepath.Join(dir, replacedDir), identityFile, "ledger")
	requireFile(t, filepath.Join(dir, replacedDir, "ledger", "raft", "votes"), "b's")
}

func requireEntries(t testing.TB, dir string, names ...string) {
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var have []string
	for _, e := range entries {
		have = append(have, e.Name())
	}
	require.ElementsMatch(t, names, have)
}

func requireFile(t testing.TB, path, content string) {
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, content, string(b))
}

var errPowerCut = errors.New("power cut")

// cutDisk loses power after so many changes.
type cutDisk struct {
	osDisk
	left *int
}

func (d cutDisk) step() error {
	if *d.left == 0 {
		return errPowerCut
	}
	*d.left--
	return nil
}

func (d cutDisk) Write(path string, data []byte) error {
	if err := d.step(); err != nil {
		return err
	}
	return d.osDisk.Write(path, data)
}

func (d cutDisk) Rename(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	return d.osDisk.Rename(from, to)
}

func (d cutDisk) Mkdir(path string) error {
	if err := d.step(); err != nil {
		return err
	}
	return d.osDisk.Mkdir(path)
}

func (d cutDisk) RemoveAll(path string) error {
	if err := d.step(); err != nil {
		return err
	}
	return d.osDisk.RemoveAll(path)
}

func TestS6PowerCutWhileAClonedStateIsMovedAsideIsResumed(t *testing.T) {
	for cut := 0; ; cut++ {
		dir := t.TempDir()
		original, _, err := OpenIdentity(dir, machineA)
		require.NoError(t, err)
		for _, name := range []string{"facts", "ledger", "book.json"} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600))
		}
		require.NoError(t, os.Mkdir(filepath.Join(dir, replacedDir), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, replacedDir, "older"), nil, 0o600))

		left := cut
		_, _, err = openIdentity(dir, machineB, cutDisk{left: &left})
		if err == nil {
			require.Greater(t, cut, 6, "every step was cut once")
			return
		}
		require.ErrorIs(t, err, errPowerCut)
		id, outcome, err := OpenIdentity(dir, machineB)
		require.NoError(t, err, "cut %d", cut)
		require.NotEqual(t, original.ID(), id.ID())
		require.Equal(t, IdentityReplaced, outcome, "cut %d", cut)
		requireEntries(t, dir, identityFile, replacedDir)
		requireEntries(t, filepath.Join(dir, replacedDir), identityFile, "facts", "ledger", "book.json")
	}
}

func TestOneChangedCardIsNotAnotherMachine(t *testing.T) {
	cards := func(macs ...string) Hardware { return Hardware{MACs: macs} }
	for name, c := range map[string]struct {
		a, b Hardware
		same bool
	}{
		"itself":                         {machineA, machineA, true},
		"another mainboard":              {machineA, machineB, false},
		"same mainboard, all cards new":  {machineA, Hardware{"dmi:a", []string{"x"}}, true},
		"another mainboard, same card":   {machineA, Hardware{"dmi:b", machineA.MACs}, false},
		"one card of two changed":        {cards("1", "2"), cards("2", "3"), true},
		"all cards changed":              {cards("1", "2"), cards("3"), false},
		"firmware hides its UUID":        {machineA, cards(machineA.MACs...), true},
		"firmware hides it, other cards": {machineA, cards("x"), false},
		"nothing to compare":             {Hardware{ID: "dmi:a"}, cards("x"), true},
		"another kind of identifier":     {Hardware{"dmi:a", []string{"x"}}, Hardware{"dt:a", []string{"x"}}, true},
		"another lab node":               {Hardware{ID: "env:1"}, Hardware{ID: "env:2"}, false},
		"lab node on a real machine":     {Hardware{ID: "env:1"}, machineA, false},
	} {
		require.Equal(t, c.same, c.a.Same(c.b), name)
		require.Equal(t, c.same, c.b.Same(c.a), name)
	}
}

func TestCardsMayChangeOneAfterAnother(t *testing.T) {
	dir := t.TempDir()
	first, _, err := OpenIdentity(dir, Hardware{MACs: []string{"1", "2"}})
	require.NoError(t, err)
	for _, macs := range [][]string{{"2", "3"}, {"3", "4"}, {"4", "5"}} {
		id, outcome, err := OpenIdentity(dir, Hardware{MACs: macs})
		require.NoError(t, err)
		require.Equal(t, IdentityKept, outcome)
		require.Equal(t, first.ID(), id.ID())
	}
}

func TestHardwareIsReadFromFirmwareAndPermanentCards(t *testing.T) {
	write := func(root, path, content string) {
		full := filepath.Join(root, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(full), 0o755))
		require.NoError(t, os.WriteFile(full, []byte(content), 0o644))
	}
	const uuid = "sys/class/dmi/id/product_uuid"
	card := func(root, name, mac, assigned string, device bool) {
		write(root, "sys/class/net/"+name+"/address", mac+"\n")
		write(root, "sys/class/net/"+name+"/addr_assign_type", assigned+"\n")
		if device {
			write(root, "sys/class/net/"+name+"/device/vendor", "0x8086")
		}
	}

	pc := t.TempDir()
	write(pc, uuid, "4C4C4544-0042-3510-8053-B4C04F4A4E32\n")
	card(pc, "eth1", "3c:ec:ef:00:00:02", "0", true)
	card(pc, "eth0", "3C:EC:EF:00:00:01", "0", true)
	card(pc, "lo", "00:00:00:00:00:00", "0", false)
	card(pc, "bond0", "3c:ec:ef:00:00:01", "2", false)
	card(pc, "usb0", "ba:ad:00:00:00:01", "1", true) // drawn by the kernel
	card(pc, "spare", "00:00:00:00:00:00", "0", true)
	hw, err := readHardware(pc)
	require.NoError(t, err)
	require.Equal(t, Hardware{"dmi:4c4c4544-0042-3510-8053-b4c04f4a4e32", []string{"3c:ec:ef:00:00:01", "3c:ec:ef:00:00:02"}}, hw)

	for _, placeholder := range []string{"", "00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "03000200-0400-0500-0006-000700080009", "Not Settable"} {
		board := t.TempDir()
		write(board, uuid, placeholder)
		_, err := readHardware(board)
		require.ErrorIs(t, err, ErrNoHardware, placeholder)
		write(board, "sys/firmware/devicetree/base/serial-number", "10000000ABCDEF01\x00")
		hw, err := readHardware(board)
		require.NoError(t, err)
		require.Equal(t, "dt:10000000abcdef01", hw.ID)
	}

	t.Setenv(HardwareIDEnv, "n1")
	hw, err = ReadHardware()
	require.NoError(t, err)
	require.Equal(t, Hardware{ID: "env:n1"}, hw)
}

func TestSignatureIsForOnePeerOneUseAndOneMessage(t *testing.T) {
	a, b := testIdentity(t), testIdentity(t)
	rapid.Check(t, func(t *rapid.T) {
		use := rapid.StringN(1, 50, 255).Draw(t, "use")
		msg := rapid.SliceOf(rapid.Byte()).Draw(t, "message")
		sig, err := a.Sign(use, msg)
		require.NoError(t, err)
		require.NoError(t, Verify(a.ID(), use, msg, sig))
		require.ErrorIs(t, Verify(b.ID(), use, msg, sig), ErrBadSignature)
		require.ErrorIs(t, Verify(a.ID(), "other", append(msg, 1), sig), ErrBadSignature)
		require.ErrorIs(t, Verify(a.ID(), use[:len(use)-1]+string(use[len(use)-1]^1), msg, sig), ErrBadSignature)
		require.ErrorIs(t, Verify(a.ID(), use, append(msg, 0), sig), ErrBadSignature)
	})
	_, err := a.Sign("", nil)
	require.Error(t, err)
	_, err = a.Sign(strings.Repeat("x", 256), nil)
	require.Error(t, err)
	require.Error(t, Verify("no peer ID", "use", nil, nil))
	require.Error(t, Verify("", "use", nil, nil))
}

func TestDefaultHostnameIsAHostname(t *testing.T) {
	require.Regexp(t, `^muster-[a-z0-9]{8}$`, DefaultHostname(testIdentity(t).ID()))
}

func TestIdentityDoesNotPrintItsKey(t *testing.T) {
	id := testIdentity(t)
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "id", id)
	inJSON, err := json.Marshal(map[string]any{"identity": id})
	require.NoError(t, err)
	out := log.String() + string(inJSON) + fmt.Sprintf("%v %+v %#v %s", id, id, id, id)
	require.Contains(t, out, id.ID().String())
	require.NotContains(t, out, fmt.Sprint(id.file.Seed[:4])[1:10])
	seed, err := json.Marshal(id.file.Seed)
	require.NoError(t, err)
	require.NotContains(t, out, string(seed[1:12]))
}

func FuzzParseIdentity(f *testing.F) {
	dir := f.TempDir()
	_, _, err := OpenIdentity(dir, machineA)
	require.NoError(f, err)
	b, err := os.ReadFile(filepath.Join(dir, identityFile))
	require.NoError(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseIdentity(b)
		if err == nil {
			require.NotEmpty(t, r.ID)
			require.False(t, r.Hardware.empty())
		}
	})
}
