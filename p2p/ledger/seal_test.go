package ledger

import (
	"encoding/json"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

func TestSealedSecretOpensForItsRecipientsOnly(t *testing.T) {
	a, _ := newIdentity(t, "a")
	b, _ := newIdentity(t, "b")
	c, _ := newIdentity(t, "c")
	s, err := Seal([]byte("K10secret"), []peer.ID{b.ID(), a.ID()})
	require.NoError(t, err)
	record, err := s.Encode()
	require.NoError(t, err)
	require.NotContains(t, string(record), "K10secret")
	s, err = ParseSealed(record)
	require.NoError(t, err)
	for _, id := range []peer.ID{a.ID(), b.ID()} {
		require.Contains(t, s.Recipients(), id)
	}
	require.Equal(t, []peer.ID{c.ID()}, s.Missing([]peer.ID{a.ID(), c.ID()}))
	got, err := s.Open(a)
	require.NoError(t, err)
	require.Equal(t, "K10secret", string(got))
	_, err = s.Open(c)
	require.ErrorIs(t, err, ErrNotRecipient)

	s.Data[len(s.Data)-1]++
	_, err = s.Open(b)
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrNotRecipient)

	_, err = Seal(nil, nil)
	require.ErrorContains(t, err, "recipients")
	_, err = Seal(make([]byte, maxSecretSize+1), []peer.ID{a.ID()})
	require.ErrorContains(t, err, "more than")
	_, err = Seal(nil, []peer.ID{a.ID(), a.ID()})
	require.ErrorContains(t, err, "twice")
	_, err = Seal(nil, []peer.ID{"no key"})
	require.Error(t, err)
}

func TestLargestSecretsFitIntoARecord(t *testing.T) {
	var to []peer.ID
	for range maxRecipients {
		id, _ := newIdentity(t, "a")
		to = append(to, id.ID())
	}
	s, err := Seal(make([]byte, maxSecretSize/2), to)
	require.NoError(t, err)
	b, err := s.Encode()
	require.NoError(t, err)
	require.LessOrEqual(t, len(b), MaxValueSize)
	s, err = Seal(make([]byte, maxSecretSize), to[:1])
	require.NoError(t, err)
	b, err = s.Encode()
	require.NoError(t, err)
	require.LessOrEqual(t, len(b), MaxValueSize)
}

func FuzzParseSealed(f *testing.F) {
	f.Add([]byte(`{"to":["12D3KooWJMqvbVPEzaWN7Pfj6tEhQVCdsQykkaSWXGGEohSjRBQU"],"age":"YWdlLWVuY3J5cHRpb24ub3JnL3YxCg=="}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSealed(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(s)
		require.NoError(t, err)
		_, err = ParseSealed(again)
		require.NoError(t, err)
	})
}
