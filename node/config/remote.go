package config

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/muster-edge/muster/p2p"
)

// Fetcher gets a remote configuration. Its errors must not show the URL, which may carry a password.
type Fetcher interface {
	Fetch(ctx context.Context, url string) ([]byte, error)
}

// Memory keeps the last good copy of a remote configuration, so that a node starts when the server does not.
type Memory interface {
	// Recall returns an error that is fs.ErrNotExist when nothing was remembered.
	Recall(url string) ([]byte, error)
	Remember(url string, data []byte) error
}

// maxChain is how many configurations may name one another by config_url.
const maxChain = 5

// fetched is a remote configuration to remember once the whole proves good.
type fetched struct {
	url    string
	data   []byte
	origin Origin
}

// remote lays the chain of remote configurations over merged. A link that cannot be had, or is wrong, becomes a warning
// and its last good copy: a mistake on a server must not stop every node that boots.
func (l *loader) remote(ctx context.Context, merged *node) (*node, []fetched) {
	var good []fetched
	seen := make(map[string]bool)
	for next := merged.get("config_url"); next != nil && next.kind == kindScalar && ctx.Err() == nil; {
		address, origin := next.text, next.origin
		if seen[address] || len(seen) == maxChain {
			if !seen[address] {
				l.warn(origin, "config_url", "is not followed: more than %d configurations name one another", maxChain)
			}
			break
		}
		seen[address] = true
		name := showURL(address)

		var root *node
		data, err := l.fetch(ctx, address)
		if err == nil {
			if root, err = l.soundRemote(name, data); err == nil && l.src.Memory != nil {
				good = append(good, fetched{address, data, origin})
			}
		}
		if err != nil {
			root = l.recall(address, name, origin, err)
		}
		if root == nil {
			break
		}
		next = root.get("config_url")
		merged = merge(merged, root)
	}
	return merged, good
}

func (l *loader) fetch(ctx context.Context, address string) ([]byte, error) {
	if l.src.Fetcher == nil {
		return nil, errors.New("nothing is fetched in this run")
	}
	return l.src.Fetcher.Fetch(ctx, address)
}

// soundRemote is sound with the problems as an error.
func (l *loader) soundRemote(name string, data []byte) (*node, error) {
	alone := loader{src: l.src}
	root := alone.sound(name, data)
	var invalid *InvalidError
	if errors.As(alone.err(), &invalid) {
		return nil, errors.New(invalid.Problems[0].String())
	}
	return root, nil
}

func (l *loader) recall(address, name string, origin Origin, cause error) *node {
	if l.src.Memory != nil {
		if data, err := l.src.Memory.Recall(address); err == nil {
			if root, err := l.soundRemote(name, data); err == nil {
				l.warn(origin, "config_url", "the last good copy is used: %v", cause)
				return root
			}
		}
	}
	l.warn(origin, "config_url", "nothing was added and there is no earlier copy: %v", cause)
	return nil
}

// Limits of HTTPFetcher.
const (
	fetchAttempts = 3                // Kairos's number
	fetchTimeout  = 10 * time.Second // for one attempt, body included
	fetchPause    = time.Second      // between attempts, twice as long each time
)

// HTTPFetcher fetches over HTTP. The zero value is ready.
type HTTPFetcher struct {
	Client *http.Client // nil: http.DefaultClient
}

// Fetch makes up to three attempts of ten seconds each and takes at most MaxSize bytes.
func (f HTTPFetcher) Fetch(ctx context.Context, address string) ([]byte, error) {
	pause := fetchPause
	for attempt := 1; ; attempt++ {
		data, err := f.once(ctx, address)
		if err == nil {
			return data, nil
		}
		if attempt == fetchAttempts {
			return nil, fmt.Errorf("fetch: %w (%d attempts)", err, attempt)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("fetch: %w", ctx.Err())
		case <-timer.C:
		}
		pause *= 2
	}
}

func (f HTTPFetcher) once(ctx context.Context, address string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, errors.New("not a URL") // err would quote it
	}
	client := f.Client
	if client == nil {
		client = http.DefaultClient
	}
	response, err := client.Do(request)
	if err != nil {
		var quoting *url.Error
		if errors.As(err, &quoting) {
			err = quoting.Err
		}
		return nil, err
	}
	defer response.Body.Close() // only read
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answers %d", response.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("larger than the limit of %d bytes", MaxSize)
	}
	return data, nil
}

// DirMemory remembers in a directory, one file for each URL, readable by root alone: a configuration holds secrets.
type DirMemory string

// Recall reads the copy.
func (m DirMemory) Recall(address string) ([]byte, error) { return readFile(m.path(address)) }

// Remember replaces the copy whole, by rename, so that a power cut leaves the old one or the new one.
func (m DirMemory) Remember(address string, data []byte) error {
	if err := os.MkdirAll(string(m), 0o700); err != nil {
		return err
	}
	if err := p2p.WriteFile(m.path(address), data, 0o600); err != nil {
		return fmt.Errorf("remember: %w", err)
	}
	return nil
}

// path names the copy by a hash, because a URL may hold a slash, a secret, or more than a name can.
func (m DirMemory) path(address string) string {
	sum := sha256.Sum256([]byte(address))
	return filepath.Join(string(m), hex.EncodeToString(sum[:8])+".yaml")
}
