package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

var errStalled = errors.New("stalled")

// try asks the hosts in turn until one does it. Who answers that it will not or cannot is not asked again; who does not
// answer is, a bounded number of times, unless the last round brought something. do returns how many bytes it got.
func (r *registry) try(ctx context.Context, do func(ctx context.Context, h *host, alive func()) (int64, error)) error {
	hosts := slices.Clone(r.hosts)
	wait := r.times.backoff
	var final several // of those that are not asked again
	for fruitless := 1; ; fruitless++ {
		var round several
		var again []*host
		for _, h := range hosts {
			got, err := r.attempt(ctx, h, do)
			if err == nil {
				return nil
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if local(err) {
				return err // a full disk stays full at the next host
			}
			if got >= worthTheName {
				fruitless, wait = 0, r.times.backoff
			}
			err, transient := classify(err)
			err = fmt.Errorf("%s: %w", h.repo.RegistryStr(), err)
			if transient {
				again, round = append(again, h), append(round, err)
			} else {
				final = append(final, err)
			}
		}
		if hosts = again; len(hosts) == 0 || fruitless >= maxTries {
			return append(final, round...)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
		wait *= 2
	}
}

// attempt gives do a context that ends when nothing arrives any more.
func (r *registry) attempt(ctx context.Context, h *host, do func(ctx context.Context, h *host, alive func()) (int64, error)) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(r.times.stall, func() { cancel(errStalled) })
	defer timer.Stop()
	got, err := do(ctx, h, func() { timer.Reset(r.times.stall) })
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		err = fmt.Errorf("%w: no byte for %s", ErrUnreachable, r.times.stall)
	}
	return got, err
}

// local says that it is this machine that failed.
func local(err error) bool {
	var path *fs.PathError
	return errors.As(err, &path)
}

// classify gives what went wrong with a registry its sentinel and says whether trying again may help.
func classify(err error) (_ error, transient bool) {
	var answer *transport.Error
	if errors.As(err, &answer) {
		switch answer.StatusCode {
		case http.StatusNotFound:
			return fmt.Errorf("%w: %w", ErrNotFound, err), false
		case http.StatusUnauthorized, http.StatusForbidden:
			return fmt.Errorf("%w: %w", ErrDenied, err), false
		}
		again := answer.StatusCode >= 500 || answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode == http.StatusRequestTimeout
		return fmt.Errorf("%w: %w", ErrUnreachable, err), again
	}
	for _, verdict := range []error{ErrDigest, ErrTruncated, ErrTooLarge, ErrMalformed} {
		if errors.Is(err, verdict) {
			return err, false
		}
	}
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) || errors.Is(err, errPlainHTTP) {
		return fmt.Errorf("%w: %w", ErrDenied, err), false
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err), true
}

// aliveReader tells of every byte.
type aliveReader struct {
	r     io.Reader
	alive func()
}

func (a aliveReader) Read(p []byte) (int, error) {
	n, err := a.r.Read(p)
	if n > 0 {
		a.alive()
	}
	return n, err
}
