package peer

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func addresses(texts ...string) []netip.Addr {
	list := make([]netip.Addr, len(texts))
	for i, text := range texts {
		if text != "" {
			list[i] = netip.MustParseAddr(text)
		}
	}
	return list
}

func TestAwaitCountsUntilTheLastNodeHasAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		joined, err := await(t.Context(), began, func() ([]netip.Addr, error) {
			if time.Since(began) < 950*time.Millisecond {
				return addresses("10.1.0.1", ""), nil
			}
			return addresses("10.1.0.1", "10.1.0.2"), nil
		})
		require.NoError(t, err)
		require.Equal(t, Joined{Addresses: addresses("10.1.0.1", "10.1.0.2"), Took: time.Second}, joined)
	})
}

func TestAwaitNamesTheNodesWithoutAddress(t *testing.T) {
	for want, have := range map[string][]netip.Addr{
		"3 nodes known, without address: [1 3]":    addresses("", "10.1.0.1", ""),
		"every node has an address, some the same": addresses("10.1.0.1", "10.1.0.1"),
		"0 nodes known, without address: []":       nil,
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := await(ctx, time.Now(), func() ([]netip.Addr, error) { return have, nil })
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorContains(t, err, want)
		})
	}
}

func TestAwaitEndsWithThePeer(t *testing.T) {
	ended := errors.New("process of node 2 has ended")
	_, err := await(t.Context(), time.Now(), func() ([]netip.Addr, error) { return nil, ended })
	require.ErrorIs(t, err, ended)
}
