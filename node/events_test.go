package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func openTestEvents(t *testing.T, path string) *eventLog {
	t.Helper()
	l, err := openEvents(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.close()) })
	return l
}

func TestEventsSurviveARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	l := openTestEvents(t, path)
	l.add("phase", "searching", "")
	l.add("phase", "founding", "three are here")
	want := l.list()
	require.NoError(t, l.close())
	require.Equal(t, want, openTestEvents(t, path).list())
}

func TestTheNewestEventsAreKeptAndTheFileStaysSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	l := openTestEvents(t, path)
	for i := range 5*maxEvents + 7 {
		l.add("n", fmt.Sprint(i), "")
	}
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.LessOrEqual(t, strings.Count(string(text), "\n"), 2*maxEvents)
	require.NoError(t, l.close())

	kept := openTestEvents(t, path).list()
	require.Len(t, kept, maxEvents)
	require.Equal(t, fmt.Sprint(5*maxEvents+6), kept[maxEvents-1].What)
	require.Equal(t, fmt.Sprint(4*maxEvents+7), kept[0].What)
}

func TestATornEventIsLeftOutAndTheNextIsWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	l := openTestEvents(t, path)
	l.add("phase", "searching", "")
	require.NoError(t, l.close())
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(`{"time":"2026-03-01T12:00`)
	require.NoError(t, err)
	require.NoError(t, f.Close())

	l = openTestEvents(t, path)
	l.add("phase", "founding", "")
	require.NoError(t, l.close())
	events := openTestEvents(t, path).list()
	require.Len(t, events, 2)
	require.Equal(t, "founding", events[1].What)
}

func TestEventsThatCannotBeWrittenAreBoundedInMemory(t *testing.T) {
	l := openTestEvents(t, filepath.Join(t.TempDir(), "events.jsonl"))
	require.NoError(t, l.file.Close()) // every write fails from now on
	for i := range 10 * maxEvents {
		l.add("n", fmt.Sprint(i), "")
	}
	require.LessOrEqual(t, len(l.list()), 2*maxEvents)
	require.Equal(t, fmt.Sprint(10*maxEvents-1), l.list()[len(l.list())-1].What)
	l.file = nil
}
