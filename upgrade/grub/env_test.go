package grub

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var (
	idA = strings.Repeat("a1", 32)
	idB = strings.Repeat("b2", 32)
	idC = strings.Repeat("c3", 32)
)

func anyID() *rapid.Generator[string] {
	return rapid.SampledFrom([]string{idA, idB, idC})
}

func anyEnv() *rapid.Generator[Env] {
	return rapid.Custom(func(t *rapid.T) Env {
		trial := func(name string) Trial {
			return Trial{rapid.OneOf(rapid.Just(""), anyID()).Draw(t, name), rapid.IntRange(0, 9).Draw(t, name+" tries")}
		}
		good := rapid.SliceOfNDistinct(anyID(), 0, 3, rapid.ID).Draw(t, "good")
		if len(good) == 0 {
			good = nil
		}
		return Env{
			Good: good, Active: trial("active"), Passive: trial("passive"),
			MaxTries:     rapid.IntRange(1, 9).Draw(t, "max"),
			NextEntry:    rapid.SampledFrom([]string{"", "active", "passive", "recovery", "statereset"}).Draw(t, "next"),
			FellBack:     rapid.SampledFrom([]string{"", "active:tries", "passive:unreadable", "active:refused"}).Draw(t, "fell"),
			ExtraCmdline: rapid.StringMatching(`[ -~]{0,80}`).Draw(t, "extra"),
		}
	})
}

func TestWhatIsEncodedIsDecoded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		env := anyEnv().Draw(t, "env")
		block, err := env.Encode()
		require.NoError(t, err)
		require.Len(t, block, EnvSize)
		back, err := DecodeEnv(block)
		require.NoError(t, err)
		require.Equal(t, env, back)
	})
}

func TestATornWriteShowsOneDecisionOrTheOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, after := anyEnv().Draw(t, "before"), anyEnv().Draw(t, "after")
		old, err := before.Encode()
		require.NoError(t, err)
		written, err := after.Encode()
		require.NoError(t, err)
		for _, torn := range [][]byte{append(bytes.Clone(old[:512]), written[512:]...), append(bytes.Clone(written[:512]), old[512:]...)} {
			seen, err := DecodeEnv(torn)
			require.NoError(t, err)
			seen.ExtraCmdline, seen.Other = "", nil
			before, after := before, after
			before.ExtraCmdline, after.ExtraCmdline = "", ""
			require.Contains(t, []Env{before, after}, seen)
		}
	})
}

func TestUnknownVariablesStayInTheirOrder(t *testing.T) {
	block := []byte(signature + "saved_entry=x\\\\y\nnext_entry=fallback\nzeta=1\nalpha=\nsaved_entry=z\n####")
	env, err := DecodeEnv(block)
	require.NoError(t, err)
	require.Equal(t, []Variable{{"saved_entry", "z"}, {"zeta", "1"}, {"alpha", ""}}, env.Other)
	require.Equal(t, SlotPassive, env.NextEntry, "Kairos's name")
	again, err := env.Encode()
	require.NoError(t, err)
	back, err := DecodeEnv(again)
	require.NoError(t, err)
	require.Equal(t, env, back)
}

func TestImpossibleValuesAreNotWritten(t *testing.T) {
	for name, env := range map[string]Env{
		"id":         {Good: []string{"sha256:" + idA}},
		"empty id":   {Good: []string{""}},
		"upper case": {Active: Trial{ID: strings.ToUpper(idA)}},
		"tries":      {Passive: Trial{Tries: 10}},
		"next entry": {NextEntry: "cos"},
		"fell back":  {FellBack: "recovery:tries"},
		"line break": {ExtraCmdline: "quiet\ngood=x"},
		"known name": {Other: []Variable{{"good", idA}}},
		"name":       {Other: []Variable{{"a=b", "c"}}},
	} {
		_, err := env.Encode()
		require.ErrorIs(t, err, ErrEnvValue, name)
	}
	_, err := Env{ExtraCmdline: strings.Repeat("x", 600)}.Encode()
	require.ErrorIs(t, err, ErrEnvFull)
}

func TestAnEnvironmentIsWrittenWhereItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "grubenv")
	_, err := ReadEnv(path)
	require.ErrorIs(t, err, ErrEnvUnreadable)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorIs(t, Env{}.Write(path), ErrEnvUnreadable)
	require.NoError(t, CreateEnv(path, Env{Good: []string{idA}}))
	before, err := os.Stat(path)
	require.NoError(t, err)
	require.EqualValues(t, EnvSize, before.Size())
	require.NotZero(t, before.Sys().(*syscall.Stat_t).Blocks, "GRUB cannot write into a hole")

	env, err := ReadEnv(path)
	require.NoError(t, err)
	env.Active = Trial{idB, 2}
	require.NoError(t, env.Write(path))
	after, err := os.Stat(path)
	require.NoError(t, err)
	require.True(t, os.SameFile(before, after))
	back, err := ReadEnv(path)
	require.NoError(t, err)
	require.Equal(t, env, back)

	env.NextEntry = "nonsense"
	require.Error(t, env.Write(path))
	same, err := ReadEnv(path)
	require.NoError(t, err)
	require.Equal(t, back, same, "a refused value changes nothing")

	require.NoError(t, os.WriteFile(path, []byte("torn"), 0o644))
	_, err = ReadEnv(path)
	require.ErrorIs(t, err, ErrEnvUnreadable)
	require.ErrorIs(t, back.Write(path), ErrEnvUnreadable)
	require.NoError(t, CreateEnv(path, back))
	same, err = ReadEnv(path)
	require.NoError(t, err)
	require.Equal(t, back, same)
}

func FuzzDecodeEnv(f *testing.F) {
	block, err := Env{Good: []string{idA, idB}, Active: Trial{idC, 1}, ExtraCmdline: `a\b`}.Encode()
	require.NoError(f, err)
	f.Add(block)
	f.Add([]byte(signature + "good=" + idA + "\nmax_tries=0\nx\\=y=z\n\\"))
	f.Fuzz(func(t *testing.T, block []byte) {
		env, err := DecodeEnv(block)
		if err != nil {
			require.ErrorIs(t, err, ErrEnvUnreadable)
			return
		}
		again, err := env.Encode()
		if err != nil {
			require.ErrorIs(t, err, ErrEnvFull)
			return
		}
		back, err := DecodeEnv(again)
		require.NoError(t, err)
		env.Good = env.Good[:min(len(env.Good), maxGood)]
		require.Equal(t, env, back)
	})
}
