package vpn

import (
	"context"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"encoding/binary"
	"hash"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// meshLink is a mesh of one link: what one end opens, the other serves once it is there.
type meshLink struct {
	up    chan struct{}
	other **Paths
	id    string // this end, as the other knows it
}

func (m meshLink) Reaches(string) bool { return true }

func (m meshLink) Open(context.Context, string) (io.WriteCloser, error) {
	r, w := io.Pipe()
	go func() {
		<-m.up
		_ = (*m.other).Serve(m.id, r) // ends when w is closed
	}()
	return w, nil
}

// A machine without a battery behind its clock comes up in the past, and WireGuard takes its handshakes for repeated ones.
func TestAPeerWhoseClockWentBackIsHeardAgain(t *testing.T) {
	s := newSite(t)
	s.a.do(t, func() error { return s.va.Apply(s.configA(s.endpointB)) })
	s.b.do(t, func() error { return s.vb.Apply(s.configB()) })
	s.meet(t)
	s.echo(t)
	gone := s.configA()
	gone.Port, gone.Peers = freePort(t), nil
	s.a.do(t, func() error { return s.va.Apply(gone) })
	// What B saw of A last is from an hour ahead.
	socket, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(loopback(s.portA)), net.UDPAddrFromAddrPort(s.endpointB))
	require.NoError(t, err)
	_, err = socket.Write(handshakeInitiation(t, s.keyA, s.keyB.PublicKey(), time.Now().Add(time.Hour)))
	require.NoError(t, err)
	require.NoError(t, socket.SetReadDeadline(time.Now().Add(10*time.Second)))
	answer := make([]byte, 1500)
	for answer[0] != 2 { // that B takes it for A's; it may still send packets of the connection before
		_, err = socket.Read(answer)
		require.NoError(t, err)
	}
	require.NoError(t, socket.Close())

	s.a.do(t, func() error { return s.va.Apply(s.configA(s.endpointB)) })
	var pa, pb *Paths
	up := make(chan struct{})
	s.a.do(t, func() (err error) {
		pa, err = StartPaths(PathsConfig{VPN: s.va, Carrier: meshLink{up, &pb, "a"}})
		return err
	})
	t.Cleanup(func() { require.NoError(t, pa.Close()) })
	s.b.do(t, func() (err error) {
		pb, err = StartPaths(PathsConfig{VPN: s.vb, Carrier: meshLink{up, &pa, "b"}})
		return err
	})
	t.Cleanup(func() { require.NoError(t, pb.Close()) })
	close(up)
	require.Eventually(t, func() bool {
		s.a.do(t, func() error { _, err := s.va.Probe(context.Background()); return err })
		peers, err := s.va.Peers()
		return err == nil && !peers[0].LastHandshake.IsZero()
	}, time.Minute, 500*time.Millisecond)
	s.echo(t)
}

// handshakeInitiation is WireGuard's first message (whitepaper §5.4.2), with a timestamp of one's choice.
func handshakeInitiation(t *testing.T, from, to wgtypes.Key, at time.Time) []byte {
	t.Helper()
	sum := func(parts ...[]byte) []byte {
		h := blake2s.Sum256(slices.Concat(parts...))
		return h[:]
	}
	newHash := func() hash.Hash {
		h, err := blake2s.New256(nil)
		require.NoError(t, err)
		return h
	}
	chain := sum([]byte("Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"))
	transcript := sum(sum(chain, []byte("WireGuard v1 zx2c4 Jason@zx2c4.com")), to[:])
	mix := func(secret []byte) (key []byte) {
		out, err := hkdf.Key(newHash, secret, chain, "", 2*blake2s.Size)
		require.NoError(t, err)
		chain = out[:blake2s.Size]
		return out[blake2s.Size:]
	}
	seal := func(key, plain []byte) []byte {
		aead, err := chacha20poly1305.New(key)
		require.NoError(t, err)
		sealed := aead.Seal(nil, make([]byte, aead.NonceSize()), plain, transcript)
		transcript = sum(transcript, sealed)
		return sealed
	}
	static, err := ecdh.X25519().NewPrivateKey(from[:])
	require.NoError(t, err)
	ephemeral, err := ecdh.X25519().GenerateKey(rand.Reader)
	require.NoError(t, err)
	peer, err := ecdh.X25519().NewPublicKey(to[:])
	require.NoError(t, err)
	shared := func(k *ecdh.PrivateKey) []byte {
		secret, err := k.ECDH(peer)
		require.NoError(t, err)
		return secret
	}

	public := ephemeral.PublicKey().Bytes()
	mix(public)
	transcript = sum(transcript, public)
	sealedStatic := seal(mix(shared(ephemeral)), static.PublicKey().Bytes())
	timestamp := binary.BigEndian.AppendUint64(nil, 0x400000000000000a+uint64(at.Unix()))
	timestamp = binary.BigEndian.AppendUint32(timestamp, uint32(at.Nanosecond()))
	sealedTime := seal(mix(shared(static)), timestamp)

	message := slices.Concat([]byte{1, 0, 0, 0}, []byte{7, 7, 7, 7}, public, sealedStatic, sealedTime)
	mac, err := blake2s.New128(sum([]byte("mac1----"), to[:]))
	require.NoError(t, err)
	mac.Write(message)
	return slices.Concat(message, mac.Sum(nil), make([]byte, blake2s.Size128))
}
