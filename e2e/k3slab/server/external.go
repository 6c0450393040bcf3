package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/muster-edge/muster/e2e/k3slab/datastore"
	"github.com/muster-edge/muster/e2e/k3slab/flags"
	"github.com/muster-edge/muster/e2e/k3slab/host"
	"github.com/muster-edge/muster/e2e/k3slab/supervisor"
)

// externalDatastore returns nil without --datastore-endpoint.
func externalDatastore(options *flags.Options) (*datastore.External, error) {
	endpoint := options.Get("datastore-endpoint", "")
	if endpoint == "" {
		return nil, nil
	}
	if options.Is("cluster-init") || options.Is("cluster-reset") {
		return nil, errors.New("--datastore-endpoint with --cluster-init or --cluster-reset: an external datastore has no members here")
	}
	return datastore.ParseExternal(endpoint,
		options.Get("datastore-cafile", ""), options.Get("datastore-certfile", ""), options.Get("datastore-keyfile", ""))
}

// shareIdentity takes the cluster's identity from the datastore, or puts a new one
// there: of several servers that start at once one makes it and all use it.
func (s *server) shareIdentity(ctx context.Context, password string) error {
	c := &s.credentials
	var offer map[string][]byte
	for {
		found, err := s.external.Identity(ctx, password, offer)
		switch {
		case errors.Is(err, datastore.ErrOtherToken):
			return err
		case err == nil && found != nil:
			return supervisor.WriteIdentity(c.tls(), found)
		case err == nil:
			if offer, err = newIdentity(); err != nil {
				return err
			}
			continue
		}
		slog.Warn("waiting for the datastore", "error", err)
		if err := host.Pause(ctx, joinRetry); err != nil {
			return err
		}
	}
}

// newIdentity makes the files of an identity in a folder that goes away again.
func newIdentity() (map[string][]byte, error) {
	dir, remove, err := temporaryDir()
	if err != nil {
		return nil, fmt.Errorf("make an identity: %w", err)
	}
	defer remove()
	scratch := credentials{dir: dir}
	if err := scratch.create(); err != nil {
		return nil, err
	}
	return supervisor.ReadIdentity(scratch.tls())
}

func temporaryDir() (dir string, remove func(), err error) {
	dir, err = os.MkdirTemp("", "identity-")
	return dir, func() { _ = os.RemoveAll(dir) }, err // what is left lies in a folder that nobody reads
}
