package image

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// timing is how long a registry is waited for.
type timing struct {
	stall   time.Duration // without a byte
	backoff time.Duration // before the second try; doubles
}

const (
	maxTries = 4 // in a row without progress worth the name
	// worthTheName is what a broken download must have brought to be tried again as if nothing had happened.
	worthTheName = 1 << 20
	// maxComplaint is what is read of an error's text.
	maxComplaint = 4 << 10
)

var defaultTiming = timing{stall: time.Minute, backoff: time.Second}

// registry is one repository, at its mirrors and at home.
type registry struct {
	hosts []*host
	cache *cache
	times timing
}

// host is one place where the repository may be.
type host struct {
	repo     name.Repository
	insecure bool
	client   *http.Client // after the first request
}

func openRegistry(ctx context.Context, ref name.Reference, want v1.Platform, key crypto.PublicKey, o Options) (_ *Image, err error) {
	r := &registry{times: o.times}
	if r.times == (timing{}) {
		r.times = defaultTiming
	}
	for _, at := range append(append([]string{}, o.Mirrors...), "") {
		h, err := newHost(ref.Context(), at, o.Insecure)
		if err != nil {
			return nil, err
		}
		r.hosts = append(r.hosts, h)
	}
	if r.cache, err = openCache(o.Cache); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	raw, err := r.manifest(ctx, ref.Identifier())
	if err != nil {
		return nil, err
	}
	return openBlobs(ctx, r, raw, want, key, o.Progress)
}

func newHost(repo name.Repository, mirror string, insecure bool) (*host, error) {
	var options []name.Option
	if insecure {
		options = append(options, name.Insecure)
	}
	full := repo.Name()
	if mirror != "" {
		full = mirror + "/" + repo.RepositoryStr()
	}
	at, err := name.NewRepository(full, options...)
	if err != nil {
		return nil, fmt.Errorf("mirror %q: %w: %w", mirror, ErrReference, err)
	}
	return &host{repo: at, insecure: insecure}, nil
}

// manifest fetches a manifest or index by tag or digest. What a digest names is taken from the cache, so that what was
// pulled can be unpacked without the registry.
func (r *registry) manifest(ctx context.Context, id string) ([]byte, error) {
	hex, byDigest := strings.CutPrefix(id, "sha256:")
	digest := v1.Hash{Algorithm: "sha256", Hex: hex}
	if byDigest {
		if raw, err := os.ReadFile(r.cache.path(digest)); err == nil && sha256Of(raw) == digest {
			return raw, nil
		}
	}
	raw, err := r.whole(ctx, "manifests", id, maxSmall)
	if err != nil {
		return nil, err
	}
	if byDigest && sha256Of(raw) != digest {
		return nil, fmt.Errorf("manifest %s: %w: it is %s", id, ErrDigest, sha256Of(raw))
	}
	return raw, r.cache.put(sha256Of(raw), raw)
}

// whole fetches something small.
func (r *registry) whole(ctx context.Context, kind, id string, limit int64) (data []byte, err error) {
	err = r.try(ctx, func(ctx context.Context, h *host, alive func()) (int64, error) {
		resp, err := h.get(ctx, kind, id, 0, 0)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		if data, err = io.ReadAll(io.LimitReader(aliveReader{resp.Body, alive}, limit+1)); err != nil {
			return 0, err
		}
		if int64(len(data)) > limit {
			return 0, fmt.Errorf("%s %s: %w: more than the %d bytes that may be", kind, id, ErrTooLarge, limit)
		}
		return 0, nil
	})
	return data, err
}

func (r *registry) small(ctx context.Context, d v1.Descriptor) (data []byte, err error) {
	if ok, err := r.cache.has(d); err != nil {
		return nil, err
	} else if ok {
		return os.ReadFile(r.cache.path(d.Digest))
	}
	kind := "blobs"
	if d.MediaType.IsImage() || d.MediaType.IsIndex() {
		kind = "manifests"
	}
	if data, err = r.whole(ctx, kind, d.Digest.String(), d.Size); err != nil {
		return nil, err
	}
	if err := checked(d, data); err != nil {
		return nil, err
	}
	return data, r.cache.put(d.Digest, data)
}

func (r *registry) pull(ctx context.Context, all []v1.Descriptor, progress func(Progress)) error {
	unlock, err := r.cache.lock()
	if err != nil {
		return err
	}
	defer unlock()
	var done, total int64
	for _, d := range all {
		total += d.Size
	}
	for _, d := range all {
		if err := r.fetch(ctx, d, func(n int64) { progress(Progress{"pull", done + n, total}) }); err != nil {
			return fmt.Errorf("pull: %w", err)
		}
		done += d.Size
		progress(Progress{"pull", done, total})
	}
	return nil
}

func (r *registry) open(d v1.Descriptor) (io.ReadCloser, error) { return r.cache.open(d) }

func (r *registry) close() error {
	for _, h := range r.hosts {
		if h.client != nil {
			h.client.CloseIdleConnections()
		}
	}
	return r.cache.close()
}

func (r *registry) signatures(ctx context.Context, signed v1.Hash) ([][]byte, error) {
	raw, err := r.manifest(ctx, signatureTag(signed))
	// A mirror that has none says nothing while home does not answer.
	if errors.Is(err, ErrNotFound) && !errors.Is(err, ErrUnreachable) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return [][]byte{raw}, nil
}

// fetch brings one blob into the cache and goes on where an earlier attempt ended, at whichever host.
func (r *registry) fetch(ctx context.Context, d v1.Descriptor, progress func(int64)) error {
	if ok, err := r.cache.has(d); ok || err != nil {
		return err
	}
	p, err := r.cache.begin(d)
	if err != nil {
		return fmt.Errorf("cache blob %s: %w", d.Digest, err)
	}
	defer p.close()
	return r.try(ctx, func(ctx context.Context, h *host, alive func()) (int64, error) {
		before := p.size
		err := h.blob(ctx, p, func() { alive(); progress(p.size) })
		if errors.Is(err, ErrDigest) && p.older {
			// The part from an earlier run may be what is wrong: once more, all of it from here.
			if err = p.restart(); err == nil {
				err = h.blob(ctx, p, func() { alive(); progress(p.size) })
			}
		}
		return p.size - before, err
	})
}

// blob receives what is missing of one blob.
func (h *host) blob(ctx context.Context, p *partial, alive func()) error {
	if p.size < p.d.Size {
		resp, err := h.get(ctx, "blobs", p.d.Digest.String(), p.size, p.d.Size)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if p.size > 0 && resp.StatusCode != http.StatusPartialContent {
			if err := p.restart(); err != nil { // it sends all of it
				return err
			}
		}
		older := p.older
		if _, err := io.Copy(p, aliveReader{resp.Body, alive}); err != nil {
			if errors.Is(err, ErrDigest) {
				err = errors.Join(err, p.restart())
				p.older = older
			}
			return err
		}
		if p.size < p.d.Size {
			return fmt.Errorf("blob %s: %w: %s has %d of %d bytes", p.d.Digest, ErrTruncated, h.repo.RegistryStr(), p.size, p.d.Size)
		}
	}
	older := p.older
	err := p.finish()
	p.older = older
	return err
}

// get asks for a manifest or blob; size is 0 for what is wanted whole.
func (h *host) get(ctx context.Context, kind, id string, from, size int64) (*http.Response, error) {
	if h.client == nil {
		rt, err := transport.NewWithContext(ctx, h.repo.Registry, h.auth(), h.base(), []string{h.repo.Scope(transport.PullScope)})
		if err != nil {
			return nil, err
		}
		h.client = &http.Client{Transport: rt}
	}
	u := url.URL{Scheme: h.repo.Scheme(), Host: h.repo.RegistryStr(), Path: fmt.Sprintf("/v2/%s/%s/%s", h.repo.RepositoryStr(), kind, id)}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if kind == "manifests" {
		for _, t := range []types.MediaType{types.OCIManifestSchema1, types.OCIImageIndex, types.DockerManifestSchema2, types.DockerManifestList} {
			req.Header.Add("Accept", string(t))
		}
	}
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, size-1))
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%s %s: %w: %s has no more than %d of %d bytes", kind, id, ErrTruncated, h.repo.RegistryStr(), from, size)
	}
	if resp.StatusCode == http.StatusPartialContent {
		if start := fmt.Sprintf("bytes %d-", from); from == 0 || !strings.HasPrefix(resp.Header.Get("Content-Range"), start) {
			_ = resp.Body.Close()
			return nil, fmt.Errorf("%s %s: %w: %s sends a range that was not asked for", kind, id, ErrMalformed, h.repo.RegistryStr())
		}
	}
	if resp.StatusCode >= http.StatusBadRequest {
		resp.Body = limitedBody{io.LimitReader(resp.Body, maxComplaint), resp.Body} // CheckError reads all of it
	}
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

type limitedBody struct {
	io.Reader
	io.Closer
}

// auth is what this machine's container tools know about the registry (~/.docker/config.json).
func (h *host) auth() authn.Authenticator {
	a, err := authn.DefaultKeychain.Resolve(h.repo)
	if err != nil {
		return authn.Anonymous // an unreadable file must not keep a public image away
	}
	return a
}

func (h *host) base() http.RoundTripper {
	base := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 20 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: 20 * time.Second, ForceAttemptHTTP2: true, MaxIdleConns: 4, IdleConnTimeout: time.Minute,
		DisableCompression: true, // a blob's digest is over what was sent
	}
	// NewWithContext falls back to HTTP by itself for private addresses.
	return &secureTransport{Transport: base, insecure: h.insecure}
}

var errPlainHTTP = errors.New("it has no TLS, and plain HTTP was not allowed")

// secureTransport speaks plain HTTP only to who was meant to be spoken to like this, redirects included.
type secureTransport struct {
	*http.Transport
	insecure bool

	mu sync.Mutex
	// unreached is why HTTPS reached nobody: that, and not the lack of TLS, is then the reason.
	unreached error
}

func (s *secureTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !s.insecure {
		s.mu.Lock()
		defer s.mu.Unlock()
		return nil, cmp.Or(s.unreached, errPlainHTTP)
	}
	resp, err := s.Transport.RoundTrip(r)
	var dial *net.OpError
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unreached = nil
	if errors.As(err, &dial) && dial.Op == "dial" {
		s.unreached = err
	}
	return resp, err
}
