package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

// Config is the effective configuration of a node: every key of ours with its default applied. What each key means
// stands in the table of fields and in docs/CONFIG.md.
type Config struct {
	Hostname  string // empty: the system's, or muster-xxxxxxxx
	ConfigURL string
	P2P       P2P
	K3s       K3s
	K3sAgent  K3s // Binary, URL, SHA256 and EmbeddedRegistry are K3s's alone
	KubeVIP   KubeVIP
	Upgrade   Upgrade

	root    *node             // merged, foreign blocks included
	origins map[string]Origin // of every key of ours that somebody wrote; map keys as "k3s.env.NAME"
}

// P2P is the block that makes a machine a node of a site.
type P2P struct {
	NetworkToken Secret // empty: this machine is in no mesh
	NetworkID    string
	Role         string // "master", "worker", or empty: the site decides
	DNS          bool
	LogLevel     string // "debug", "info", "warn" or "error"
	DisableDHT   bool
	MinimumNodes int
	JoinOnly     bool
	ReplaceAfter time.Duration
	Bootstrap    []string // multiaddrs
	DHTBootstrap []string // multiaddrs with a peer ID; empty: the public ones
	DynamicRoles bool
	VPN          VPN
	Auto         Auto
}

// LogValue keeps tokens and environment out of logs.
func (p P2P) LogValue() slog.Value {
	return slog.GroupValue(slog.String("network_id", p.NetworkID), slog.String("role", p.Role), slog.Int("minimum_nodes", p.MinimumNodes))
}

// VPN says whether there is a data plane and who uses it. Use is never true without Create.
type VPN struct {
	Create bool
	Use    bool
	Env    Env // EdgeVPN's, without effect
}

// Auto is the coordinated choice of roles.
type Auto struct {
	Enable bool
	HA     HA
}

// HA asks for several masters.
type HA struct {
	Enable      bool
	MasterNodes int    // additional masters: the total is one more
	ExternalDB  Secret // K3s's datastore endpoint in place of etcd; empty: etcd
}

// Masters is how many masters the site wants in all: 1, 3 or 5.
func (p P2P) Masters() int {
	if !p.Auto.HA.Enable {
		return 1
	}
	return 1 + p.Auto.HA.MasterNodes
}

// K3s is what the user wants of K3s as a server (k3s) or as an agent (k3s-agent).
type K3s struct {
	Enabled          bool
	Args             Args
	Env              Env
	ReplaceArgs      bool
	ReplaceEnv       bool
	EmbeddedRegistry bool
	Binary           string // absolute path
	URL              string // http or https; SHA256 is set too
	SHA256           string // 64 lower-case hexadecimal digits
}

// LogValue keeps arguments and environment out of logs.
func (k K3s) LogValue() slog.Value {
	return slog.GroupValue(slog.Bool("enabled", k.Enabled), slog.Int("args", len(k.Args)), slog.Int("env", len(k.Env)))
}

// KubeVIP is a virtual address for the API server.
type KubeVIP struct {
	Enable      bool
	EIP         netip.Addr // invalid: none
	Interface   string
	StaticPod   bool
	Version     string
	Image       string
	ManifestURL string
}

// Own returns the address that the masters themselves hold in turn, the zero
// address when there is none: eip is given and kube-vip is not to keep it.
func (k KubeVIP) Own() netip.Addr {
	if k.Enable {
		return netip.Addr{}
	}
	return k.EIP
}

// Upgrade is the part of the upgrade block that is ours. Kairos's keys are kept: Config.Block("upgrade", …).
type Upgrade struct {
	HealthDeadline time.Duration
	Tries          int
}

// Block decodes the merged block of that name, foreign or ours, into a value with yaml tags. It returns false when
// nobody wrote the block.
func (c *Config) Block(name string, into any) (bool, error) {
	n := c.root.get(name)
	if n == nil || n.kind == kindNull {
		return false, nil
	}
	if err := n.yaml().Decode(into); err != nil {
		_, text := explainYAML(err)
		return true, fmt.Errorf("decode block %s (%s): %s", name, n.origin, text)
	}
	return true, nil
}

// Foreign names the blocks that are not ours, in the order of their first appearance.
func (c *Config) Foreign() []string {
	var names []string
	if c.root != nil {
		for _, e := range c.root.entries {
			if known.children[e.key] == nil {
				names = append(names, e.key)
			}
		}
	}
	return names
}

// Origin says who wrote the value of a dotted key of ours; the zero Origin is the default.
func (c *Config) Origin(key string) Origin { return c.origins[key] }

// String never shows values; see Redacted.
func (c *Config) String() string {
	return fmt.Sprintf("config (%d keys written, %d foreign blocks)", len(c.origins), len(c.Foreign()))
}

// LogValue keeps the whole configuration out of logs.
func (c *Config) LogValue() slog.Value { return slog.StringValue(c.String()) }
