package datastore

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAnEndpointIsEtcdAloneAndNeverShown(t *testing.T) {
	e, err := ParseExternal("http://user:secret@10.0.0.1:2379, https://10.0.0.2:2379", "/ca", "", "")
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"--etcd-servers=http://10.0.0.1:2379,https://10.0.0.2:2379", "--etcd-cafile=/ca"}, e.APIServerArgs())
	_, err = ParseExternal("postgres://user:secret@10.0.0.1/db", "", "", "")
	require.ErrorContains(t, err, "etcd alone")
	require.NotContains(t, err.Error(), "secret")
}

func TestServersThatShareADatastoreShareAnIdentity(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	url := "http://" + l.Addr().String()
	require.NoError(t, l.Close())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- RunAlone(ctx, t.TempDir(), url) }()
	defer func() { cancel(); require.NoError(t, <-ended) }()

	e, err := ParseExternal(url, "", "", "")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		none, err := e.Identity(ctx, "one", nil)
		return err == nil && none == nil
	}, time.Minute, 100*time.Millisecond)
	first, err := e.Identity(ctx, "one", map[string][]byte{"a": []byte("1")})
	require.NoError(t, err)
	second, err := e.Identity(ctx, "one", map[string][]byte{"a": []byte("2")})
	require.NoError(t, err)
	require.Equal(t, first, second)
	_, err = e.Identity(ctx, "two", nil)
	require.ErrorIs(t, err, ErrOtherToken)
}
