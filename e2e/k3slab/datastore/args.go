package datastore

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"go.etcd.io/etcd/server/v3/embed"
)

// applyArgs sets the etcd flags that tests have a use for. K3s passes all of
// etcd's on; the others are warned about here.
func applyArgs(c *embed.Config, args []string) error {
	for _, arg := range args {
		name, v, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		var err error
		switch name {
		case "heartbeat-interval":
			c.TickMs, err = parseUint(v)
		case "election-timeout":
			c.ElectionMs, err = parseUint(v)
		case "quota-backend-bytes":
			c.QuotaBackendBytes, err = strconv.ParseInt(v, 10, 64)
		case "snapshot-count":
			c.SnapshotCount, err = strconv.ParseUint(v, 10, 64)
		case "unsafe-no-fsync":
			c.UnsafeNoFsync, err = strconv.ParseBool(v)
		default:
			slog.Warn("--etcd-arg accepted and ignored", "name", name)
		}
		if err != nil {
			return fmt.Errorf("--etcd-arg=%s: %w", name, err)
		}
	}
	return nil
}

func parseUint(s string) (uint, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint(n), err
}
