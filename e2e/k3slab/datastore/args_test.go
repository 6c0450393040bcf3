package datastore

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/server/v3/embed"
)

func TestEtcdArgsReplaceK3sTimers(t *testing.T) {
	c, err := newEmbedConfig(Config{Dir: t.TempDir(), TLSDir: t.TempDir(), NodeIP: "10.1.0.1"}, "n1-abcd")
	require.NoError(t, err)
	require.Equal(t, []uint{500, 5000}, []uint{c.TickMs, c.ElectionMs})
	require.Equal(t, "n1-abcd=https://10.1.0.1:2380", c.InitialCluster)

	require.NoError(t, applyArgs(c, []string{"heartbeat-interval=100", "--election-timeout=1000", "unsafe-no-fsync=true", "unheard-of=1"}))
	require.Equal(t, []uint{100, 1000}, []uint{c.TickMs, c.ElectionMs})
	require.True(t, c.UnsafeNoFsync)
	require.ErrorContains(t, applyArgs(embed.NewConfig(), []string{"election-timeout=soon"}), "election-timeout")
}

func TestAMemberKeepsItsNameAndAWipedOneDrawsAnother(t *testing.T) {
	dir := t.TempDir()
	first, err := memberName(dir, "n1")
	require.NoError(t, err)
	again, err := memberName(dir, "n1")
	require.NoError(t, err)
	require.Equal(t, first, again)
	wiped, err := memberName(t.TempDir(), "n1")
	require.NoError(t, err)
	require.NotEqual(t, first, wiped)
}

func TestARemovedMemberMovesItsDataAsideAtTheNextStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "member", "wal"), 0o700))
	require.NoError(t, buryRemoved(dir, time.Unix(1, 0)))
	require.True(t, Exists(dir), "a member that was not removed keeps its data")

	require.NoError(t, (&Etcd{dir: dir}).entomb())
	require.NoError(t, buryRemoved(dir, time.Unix(1, 0)))
	require.False(t, Exists(dir))
	require.True(t, Exists(dir+"-old-1000000000"))
}
