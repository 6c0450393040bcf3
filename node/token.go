package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/muster-edge/muster/p2p"
	"github.com/muster-edge/muster/p2p/ledger"
)

const (
	// tokenFile holds the token that replaced the configuration's, and those that
	// it replaced. It lies in the state directory and, where there is one, on the
	// OEM partition, which a reset keeps: the configuration still has the old
	// token, with which nobody is let in any more (history S20).
	tokenFile = "token.json"
	// maxTokenFile bounds it in bytes.
	maxTokenFile = 32 << 10
)

// tokens is what a site's tokens are and were: in the ledger it is sealed to
// every member, on disk it is the override of the configuration's.
type tokens struct {
	Version int    `json:"version"`
	Epoch   uint64 `json:"epoch"`
	Present string `json:"present"`
	// Former are those replaced, newest first.
	Former []string `json:"former,omitempty"`
}

// parseTokens reads a file or a secret. No error holds a piece of a token.
func parseTokens(b []byte) (tokens, error) {
	var t tokens
	if len(b) > maxTokenFile {
		return tokens{}, fmt.Errorf("tokens: %d bytes, at most %d are allowed", len(b), maxTokenFile)
	}
	if err := json.Unmarshal(b, &t); err != nil {
		return tokens{}, errors.New("tokens: not the JSON that it should be")
	}
	if t.Version < 1 || len(t.Former) > p2p.MaxFormerNetworks {
		return tokens{}, fmt.Errorf("tokens: version %d with %d former tokens, want version 1 and at most %d", t.Version, len(t.Former), p2p.MaxFormerNetworks)
	}
	_, err := t.networks("")
	return t, err
}

// networks derives what the mesh needs of them.
func (t tokens) networks(networkID string) (p2p.Networks, error) {
	present, err := p2p.ParseToken(t.Present)
	if err != nil {
		return p2p.Networks{}, fmt.Errorf("present token: %w", err)
	}
	n := p2p.Networks{Epoch: t.Epoch, Present: present.Network(networkID)}
	for i, line := range t.Former {
		former, err := p2p.ParseToken(line)
		if err != nil {
			return p2p.Networks{}, fmt.Errorf("former token %d: %w", i+1, err)
		}
		n.Former = append(n.Former, former.Network(networkID))
	}
	return n, nil
}

// next replaces the present token by another, of the same name and bootstrap
// addresses.
func (t tokens) next() (tokens, error) {
	old, err := p2p.ParseToken(t.Present)
	if err != nil {
		return tokens{}, fmt.Errorf("replace the token: %w", err)
	}
	line, err := p2p.GenerateToken(p2p.TokenOptions{Name: old.Name(), Bootstrap: old.Network("").Bootstrap()})
	if err != nil {
		return tokens{}, fmt.Errorf("replace the token: %w", err)
	}
	former := append([]string{t.Present}, t.Former...)
	return tokens{
		Version: 1, Epoch: t.Epoch + 1, Present: line.Encode(),
		Former: former[:min(len(former), p2p.MaxFormerNetworks)],
	}, nil
}

// knows reports whether a token is the present one or one of those replaced.
func (t tokens) knows(token p2p.Token) bool {
	n, err := t.networks("")
	if err != nil {
		return false
	}
	own := token.Network("")
	for _, known := range append(n.Former, n.Present) {
		if known.Same(own) {
			return true
		}
	}
	return false
}

func (t tokens) encode() ([]byte, error) { return json.Marshal(t) }

// String and its like keep tokens out of logs.
func (t tokens) String() string   { return "[tokens]" }
func (t tokens) GoString() string { return "[tokens]" }

// tokenKeeper is which tokens this node goes by, and where it keeps them.
type tokenKeeper struct {
	files     []string
	networkID string

	mu      sync.Mutex
	present tokens
}

// openTokens starts from the configuration's token, or from the one that replaced
// it while this node was a member. One on disk that has nothing to do with the
// configuration's is of another site, and a warning.
func openTokens(configured p2p.Token, networkID string, files ...string) (_ *tokenKeeper, warnings []string) {
	k := &tokenKeeper{files: files, networkID: networkID, present: tokens{Version: 1, Present: configured.Encode()}}
	for _, path := range files {
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var kept tokens
		if err == nil {
			kept, err = parseTokens(raw)
		}
		switch {
		case err != nil:
			warnings = append(warnings, fmt.Sprintf("%s is of no use, the configuration's token counts: %v", path, err))
		case !kept.knows(configured):
			warnings = append(warnings, fmt.Sprintf("%s holds the token of another site than the configuration's, which counts", path))
		default:
			k.present = kept
			return k, warnings
		}
	}
	return k, warnings
}

func (k *tokenKeeper) now() tokens {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.present
}

// networks cannot fail for what was parsed before it was kept.
func (k *tokenKeeper) networks() p2p.Networks {
	n, err := k.now().networks(k.networkID)
	if err != nil {
		panic("node: a token that was read cannot be read again: " + err.Error())
	}
	return n
}

// keep makes t the tokens that this node goes by, on disk first.
func (k *tokenKeeper) keep(t tokens) error {
	raw, err := t.encode()
	if err != nil {
		return err
	}
	var all error
	for i, path := range k.files {
		// The first is the state directory's and has to be there.
		if _, err := os.Stat(filepath.Dir(filepath.Dir(path))); i > 0 && err != nil {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			all = errors.Join(all, err)
			continue
		}
		all = errors.Join(all, p2p.WriteFile(path, raw, 0o600))
	}
	k.mu.Lock()
	k.present = t
	k.mu.Unlock()
	if all != nil {
		return fmt.Errorf("keep the site's new token: %w", all)
	}
	return nil
}

// tokenFiles are where a rotated token is kept: with the identity, and where a
// reset of this machine finds it.
func (a *Agent) tokenFiles() []string {
	files := []string{a.path(tokenFile)}
	if a.opts.OEMDir != "" {
		files = append(files, filepath.Join(a.opts.OEMDir, "muster", tokenFile))
	}
	return files
}

// rotation follows the site's token: admission and the names under which nodes
// find each other change with it, and no connection to a member.
func (m *member) rotation(context.Context) ([]string, error) {
	a := m.agent
	decided, ok, err := m.siteTokens(m.ledger.View())
	if err != nil || !ok {
		return nil, err
	}
	now := a.tokens.now()
	if now.Epoch == decided.Epoch && now.Present == decided.Present && m.tokenKept {
		return nil, nil
	}
	kept := a.tokens.keep(decided)
	n := a.tokens.networks()
	if err := a.host.SetNetworks(n); err != nil {
		return nil, err
	}
	a.discovery.SetNetworks(n)
	if now.Present != decided.Present {
		a.log.Info("the network token was replaced", LogEpoch, decided.Epoch)
		a.events.add("token", "replaced", fmt.Sprintf("enrolment epoch %d", decided.Epoch))
	}
	m.tokenKept = kept == nil
	return nil, kept
}

// siteTokens returns the tokens that the site has decided on; ok is false while
// the first one still holds, or the secret has not been sealed to this node yet.
func (m *member) siteTokens(view ledger.View) (t tokens, ok bool, err error) {
	secret, err := m.secret(view, ledger.SecretNetworkToken)
	if err != nil || secret == "" {
		return tokens{}, false, err
	}
	if t, err = parseTokens([]byte(secret)); err != nil {
		return tokens{}, false, fmt.Errorf("read the site's %w", err)
	}
	return t, true, nil
}
