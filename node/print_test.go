package node

import (
	"bytes"
	"encoding/json"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/muster-edge/muster/roles"
)

// at is a moment in every golden file.
var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var rowsForTest = []Row{
	{
		ID: "12D3KooWA", Hostname: "n1", Role: roles.MasterInit, Address: "10.1.0.1", Phase: PhaseRunning, Ready: true, Path: PathSelf,
		Version: "v0.1.0", K3sVersion: "v1.36.3+k3s1", Slot: "active", Image: "sha256:1234", LastSeen: at,
	},
	{
		ID: "12D3KooWB", Hostname: "n2", Role: roles.Worker, Address: "10.1.0.2", Phase: PhaseInstalling, Path: PathDirect,
		Version: "v0.1.0", LastSeen: at, Reason: "Node n2 has not\treported yet\x1b[31m\nreally",
	},
	{ID: "12D3KooWC", Phase: PhaseSearching, Path: PathNone, LastSeen: at, Reason: "is not seen"},
}

var statusForTest = Status{
	ID: "12D3KooWA", Hostname: "n1", Site: "5a17e", Phase: PhaseRunning, Role: roles.MasterInit, Address: "10.1.0.1",
	Coordinator: "12D3KooWA", CoordinatorHostname: "n1", Voters: []string{"12D3KooWA", "12D3KooWB", "12D3KooWC"}, Quorum: true, Members: 4, Generation: 0, Index: 42,
	Version: "v0.1.0", VPN: "user", WaitingFor: []string{"n3: it is not Ready yet", "n4 waits too"}, Conflicts: []string{}, Warnings: []string{"p2p.dns has no effect"},
}

// TestTablesForPeople shows every table as a person sees it.
func TestTablesForPeople(t *testing.T) {
	policy := roles.DefaultPolicy()
	policy.Range = netip.MustParsePrefix("10.1.0.0/16")
	policy.ExternalDB = "postgres://user:secret@db/k3s"
	for name, write := range map[string]func(io.Writer) error{
		"nodes.txt":  func(w io.Writer) error { return WriteNodes(w, rowsForTest) },
		"roles.txt":  func(w io.Writer) error { return WriteRoles(w, rowsForTest) },
		"status.txt": func(w io.Writer) error { return WriteStatus(w, statusForTest) },
		"status_starting.txt": func(w io.Writer) error {
			return WriteStatus(w, Status{ID: "12D3KooWA", Hostname: "n1", Phase: PhaseStarting, WaitingFor: []string{phaseWords[PhaseStarting]}})
		},
		"events.txt": func(w io.Writer) error {
			return WriteEvents(w, []Event{{Time: at, Kind: "identity", What: "identity new", Reason: "12D3KooWA"}, {Time: at, Kind: "phase", What: "searching"}})
		},
		"ledger.txt": func(w io.Writer) error {
			return WriteLedger(w, []LedgerRow{{Key: "counter", Value: map[string]any{"next": 5}, Index: 7}, {Key: "secret/agent-token", Value: "sealed", Index: 9}})
		},
		"policy.txt": func(w io.Writer) error { return WritePolicy(w, policy) },
		"dns.txt": func(w io.Writer) error {
			return WriteDNS(w, []DNSRow{{Name: "registry.example", Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.7"), netip.MustParseAddr("fd00::7")}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			require.NoError(t, write(&out))
			require.NotContains(t, out.String(), "secret@")
			golden(t, "print/"+name, out.String())
		})
	}
}

// TestJSONForScripts is the contract of DESIGN §14: scripts and dashboards parse
// these. A change goes into docs/CHANGELOG.md.
func TestJSONForScripts(t *testing.T) {
	for name, value := range map[string]any{
		"nodes.json":  rowsForTest[:1],
		"status.json": statusForTest,
		"ledger.json": []LedgerRow{{Key: "counter", Value: map[string]any{"next": 5}, Index: 7}},
		"dns.json":    []DNSRow{{Name: "registry.example", Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.7")}}},
		"events.json": []Event{{Time: at, Kind: "phase", What: "searching"}},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			require.NoError(t, WriteJSON(&out, value))
			golden(t, "print/"+name, out.String())
		})
	}
}

func TestFieldsThatScriptsReadAreAlwaysThere(t *testing.T) {
	for name, c := range map[string]struct {
		value any
		want  []string
	}{
		"nodes": {Row{}, []string{
			"id", "hostname", "role", "address", "phase", "ready", "path", "version", "slot", "image", "last_seen", "reason", "k3s_version",
		}},
		"status": {Status{}, []string{
			"id", "hostname", "site", "phase", "role", "address", "coordinator", "voters", "quorum", "members", "waiting_for",
		}},
		"ledger get": {LedgerRow{}, []string{"key", "value", "index"}},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := json.Marshal(c.value)
			require.NoError(t, err)
			var fields map[string]any
			require.NoError(t, json.Unmarshal(text, &fields))
			for _, field := range c.want {
				require.Contains(t, fields, field)
			}
		})
	}
}

func TestPathTo(t *testing.T) {
	for _, c := range []struct {
		alive, connected, reached, mesh bool
		want                            Path
	}{
		{alive: true, connected: true, reached: true, mesh: true, want: PathDirect},
		{alive: true, reached: true, mesh: true, want: PathDirect}, // the data plane outlives a connection of the control plane
		{alive: true, connected: true, mesh: true, want: PathNone}, // no handshake yet
		{alive: true, connected: true, want: PathLAN},
		{alive: true, connected: true, reached: true, want: PathLAN}, // vpn.use: false
		{alive: true, want: PathNone},
		{connected: true, reached: true, mesh: true, want: PathNone}, // dead
	} {
		require.Equal(t, c.want, pathTo(c.alive, c.connected, c.reached, c.mesh), "%+v", c)
	}
}
