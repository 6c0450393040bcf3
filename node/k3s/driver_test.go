package k3s

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// syncBuffer is a log that tests read while it is written.
type syncBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *syncBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

func TestApplyingTheSameAgainTouchesNothing(t *testing.T) {
	m := newMachine(t)
	d := m.driver(fast)
	require.NoError(t, d.Apply(t.Context(), worker()))
	m.waitStarts(1)
	before := m.files()
	for range 20 {
		require.NoError(t, d.Apply(t.Context(), worker()))
	}
	require.Equal(t, before, m.files(), "files written or programs asked")
	require.Len(t, m.starts(), 1)
	requireFile(t, filepath.Join(m.bin, "asked"), "version\n")
	require.NoError(t, d.Stop(t.Context()))
}

// files returns inode and modification time of everything on the machine.
func (m *machine) files() map[string]time.Time {
	all := map[string]time.Time{}
	require.NoError(m.t, filepath.WalkDir(m.root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && filepath.Base(path) != "k3s.log" {
			all[path] = info.ModTime()
		}
		return err
	}))
	return all
}

func TestChangedConfigurationWaitsForTheNextStart(t *testing.T) {
	m := newMachine(t)
	d := m.driver(fast)
	require.NoError(t, d.Apply(t.Context(), initMaster()))
	m.waitStarts(1)
	founding, err := os.ReadFile(m.path(configFile))
	require.NoError(t, err)
	require.Contains(t, string(founding), "cluster-init: true")

	// The CA is committed: cluster-init leaves the file, K3s runs on.
	m.write(serverCA, "ca")
	sum := sha256.Sum256([]byte("ca"))
	committed := with(initMaster(), func(s *Spec) { s.ClusterInit, s.CAHash = false, hex.EncodeToString(sum[:]) })
	require.NoError(t, d.Apply(t.Context(), committed))
	later, err := os.ReadFile(m.path(configFile))
	require.NoError(t, err)
	require.NotContains(t, string(later), "cluster-init")
	require.Len(t, m.starts(), 1)
	require.NoError(t, d.Stop(t.Context()))
}

func TestAServerDoesNotFoundAClusterBesideTheOneThatThereIs(t *testing.T) {
	m := newMachine(t)
	d := m.driver(fast)
	alone := with(joiningServer(), func(s *Spec) { s.Join = "" })
	require.ErrorIs(t, d.Apply(t.Context(), alone), ErrForeignDisk, "nothing on disk")
	m.write(serverCA, "another cluster")
	require.ErrorIs(t, d.Apply(t.Context(), alone), ErrForeignDisk, "another cluster on disk")
	require.Empty(t, m.starts())

	require.NoError(t, d.Apply(t.Context(), with(alone, func(s *Spec) { s.DatastoreEndpoint = testEndpoint })), "the datastore holds it")
	m.waitStarts(1)
	require.NoError(t, d.Stop(t.Context()))
}

func TestAnotherRoleStopsTheFirst(t *testing.T) {
	m := newMachine(t)
	d := m.driver(fast)
	require.NoError(t, d.Apply(t.Context(), worker()))
	first := m.waitStarts(1)
	require.NoError(t, d.Apply(t.Context(), joiningServer()))
	require.False(t, alive(first.PID))
	require.Equal(t, []string{"server"}, m.waitStarts(2).Args)
	require.NoError(t, d.Stop(t.Context()))
}

func TestApplyStopAndStateMayMeet(t *testing.T) {
	m := newMachine(t)
	d := m.driver(fast)
	require.NoError(t, os.WriteFile(filepath.Join(m.bin, "die"), nil, 0o600))
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for range 5 {
				spec := worker()
				if i%2 == 0 {
					spec = joiningServer()
				}
				if i == 3 {
					_ = d.Stop(t.Context()) // it may meet an Apply of another role
					continue
				}
				_ = d.Apply(t.Context(), spec)
				_ = d.State()
			}
		})
	}
	all.Wait()
	require.NoError(t, d.Stop(t.Context()))
	require.Equal(t, State{}, d.State())
	count := len(m.starts())
	require.NoError(t, os.Remove(filepath.Join(m.bin, "die")))
	require.NoError(t, d.Apply(t.Context(), worker()))
	m.waitStarts(count + 1)
	require.NoError(t, d.Stop(t.Context()))
}

// A state of the old cluster after a wipe would have the site commit the old CA.
func TestNothingIsKnownOfTheOldClusterAfterAStop(t *testing.T) {
	m := newMachine(t)
	api := newFakeAPI(t)
	api.install(m, adminKubeconfig)
	m.write(serverCA, "old")
	d := m.driver(fast)
	require.NoError(t, d.Apply(t.Context(), joiningServer()))
	m.eventually(func() bool { return d.State().Serving && d.State().NodeReady }, "the node to be ready")
	changed := d.Changed()
	kept, err := d.Wipe(t.Context())
	require.NoError(t, err)
	require.Empty(t, kept)
	require.Equal(t, State{}, d.State())
	<-changed
	require.NoError(t, d.Apply(t.Context(), initMaster()))
	require.Empty(t, d.State().CAHash)
	require.NoError(t, d.Stop(t.Context()))
}

// Each case is the disk as a crash of Apply may leave it.
func TestApplyGoesOnAfterACrashAtEveryStep(t *testing.T) {
	for name, crash := range map[string]func(m *machine){
		"before anything":      func(*machine) {},
		"configuration begun":  func(m *machine) { m.write(configDir+"/.50-muster.yaml.123", "token: x") },
		"configuration there":  func(m *machine) { m.write(configFile, "token: old\n") },
		"log there":            func(m *machine) { m.write("/var/log/k3s.log", "") },
		"PID file begun":       func(m *machine) { m.write("/run/muster/.k3s.pid.123", "{") },
		"K3s ended since then": func(m *machine) { m.write("/run/muster/k3s.pid", `{"pid":4194303,"start":5,"role":"agent"}`) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			crash(m)
			d := m.driver(fast)
			require.NoError(t, d.Apply(t.Context(), worker()))
			m.waitStarts(1)
			text, err := worker().render()
			require.NoError(t, err)
			requireFile(t, m.path(configFile), string(text))
			require.NoError(t, d.Stop(t.Context()))
		})
	}
}

func TestTheServiceManagerIsFoundAsItSaysItself(t *testing.T) {
	root := t.TempDir()
	require.Equal(t, ManagerDirect, detect(root))
	require.NoError(t, os.MkdirAll(root+"/run/openrc", 0o755))
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	require.Equal(t, ManagerDirect, detect(root), "a directory is not yet OpenRC")
	require.NoError(t, os.WriteFile(bin+"/rc-service", []byte("#!/bin/sh\n"), 0o755))
	require.Equal(t, ManagerOpenRC, detect(root))
	require.NoError(t, os.MkdirAll(root+"/run/systemd/system", 0o755))
	require.Equal(t, ManagerSystemd, detect(root))
}

func TestKnownCAHashIsOfTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca")
	_, err := caHash(path)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, os.WriteFile(path, []byte("abc"), 0o600))
	hash, err := caHash(path)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(hash, "ba7816bf8f01cfea"))
}
