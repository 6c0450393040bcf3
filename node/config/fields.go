package config

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Field is one row of the table that everything about our keys comes from.
type Field struct {
	Key      string // dotted path, as in a cloud-config
	Default  string // as an operator would write it; prose where it depends on other keys
	Unit     string
	Meaning  string
	Kairos   string   // how it compares with Kairos; empty: the same
	Choices  []string // the only values; the first is the canonical one
	Min, Max int      // of a whole number
	Secret   bool     // the value is never shown
	NoEffect string   // why the key decodes and does nothing
	NotYet   string   // what this version does not do with the key, but one to come will

	least, most time.Duration                      // of a duration
	check       func(text string) string           // what is wrong with a text, or nothing; must not show the text of a secret
	into        func(*Config) any                  // where the value goes; the pointer's type is the field's type
	each        func(name string) (mistake string) // of a map or list: what is wrong with one name or item
	show        func(text string) string           // the part of a text that may be shown; nil: all
}

// Block is one of our top-level blocks.
type Block struct {
	Name    string
	Meaning string
}

// Blocks are our blocks in the order of the documentation.
func Blocks() []Block { return slices.Clone(blocks) }

// Fields is the table, in the order of the documentation.
func Fields() []Field { return slices.Clone(table) }

// Type names the field's type for people.
func (f Field) Type() string {
	if f.into == nil {
		return "kept as written"
	}
	switch f.into(new(Config)).(type) {
	case *bool:
		return "true or false"
	case *int:
		return "whole number"
	case *time.Duration:
		return "duration"
	case *[]string, *Args:
		return "list of text"
	case *Env:
		return "map of text"
	}
	return "text"
}

var blocks = []Block{
	{"", "Keys at the top of the file."},
	{"p2p", "The mesh: which site this machine belongs to, and how the site chooses roles."},
	{"k3s", "K3s on a master (K3s calls it a server)."},
	{"k3s-agent", "K3s on a worker (K3s calls it an agent)."},
	{"kubevip", "A virtual address for the Kubernetes API, kept by kube-vip."},
	{"upgrade", "Upgrades of the operating system. Kairos's keys describe the image; ours say when it counts as good."},
}

// ours are the keys with a meaning here.
var ours = []Field{
	{
		Key: "hostname", Default: "the system's own, else muster-xxxxxxxx from the identity",
		Meaning: "Name of this machine, in Kubernetes and in the mesh DNS. A site refuses a name that it already has.",
		Kairos:  "A Go template (`{{ … }}`) is left to the stages and gives a warning.",
		check:   checkHostname, into: func(c *Config) any { return &c.Hostname },
	},
	{
		Key: "config_url", Unit: "http or https URL",
		Meaning: "A configuration to fetch and lay over this one: 3 attempts, at most 1 MiB. When it cannot be had, the last good copy is used and a warning says so.",
		Kairos:  "Kairos ignores a failure in silence.",
		check:   checkURL, show: showURL, into: func(c *Config) any { return &c.ConfigURL },
	},

	{
		Key: "p2p.network_token", Secret: true,
		Meaning: "The token of the network, from `muster token generate`. It is needed to be let in once; after that the node is its own key.",
		Kairos:  "A token made by Kairos or EdgeVPN is accepted.",
		into:    func(c *Config) any { return &c.P2P.NetworkToken },
	},
	{
		Key: "p2p.network_id", Default: "kairos", Meaning: "Name of the site. Two ids under one token are two meshes.",
		Kairos: "There, two ids share one mesh and differ in the ledger's bucket.",
		check:  checkNetworkID, into: func(c *Config) any { return &c.P2P.NetworkID },
	},
	{
		Key: "p2p.role", Default: "auto", Choices: []string{"auto", "none", "", "master", "worker"},
		Meaning: "A role that this machine insists on. auto, none and the empty text leave it to the site.",
		into:    func(c *Config) any { return &c.P2P.Role },
	},
	{
		Key: "p2p.minimum_nodes", Default: "2", Unit: "nodes", Min: 1, Max: 1000,
		Meaning: "How many machines must see each other before a site is created. A site is never created with fewer machines than the masters that it wants. 1 creates a site alone.",
		into:    func(c *Config) any { return &c.P2P.MinimumNodes },
	},
	{
		Key: "p2p.join_only", Default: "false", Meaning: "Never create a site; wait for one to join.",
		Kairos: "Muster's own key.", into: func(c *Config) any { return &c.P2P.JoinOnly },
	},
	{
		Key: "p2p.auto.enable", Default: "true", Meaning: "Let the site choose roles. With false this machine takes part with its static p2p.role alone.",
		into: func(c *Config) any { return &c.P2P.Auto.Enable },
	},
	{
		Key: "p2p.auto.ha.enable", Default: "true when p2p.auto.ha.master_nodes is set, else false", Meaning: "Several masters in place of one.",
		into: func(c *Config) any { return &c.P2P.Auto.HA.Enable },
	},
	{
		Key: "p2p.auto.ha.master_nodes", Default: "2", Unit: "masters beside the first", Min: 0, Max: 4,
		Meaning: "Additional masters: the site has one more. The total must be 1, 3 or 5, because an even number of masters tolerates no more failures than one fewer.",
		Kairos:  "Even totals pass there.", into: func(c *Config) any { return &c.P2P.Auto.HA.MasterNodes },
	},
	{
		Key: "p2p.auto.ha.external_db", Secret: true,
		Meaning: "K3s's datastore endpoint (`postgres://…`, `mysql://…`, `http://…` for etcd) in place of etcd on the masters. Every master needs it in its own configuration, where the credentials stay; " +
			"the site's policy has it without them, and a master that leads to another datastore starts nothing. The masters' total is odd all the same: they vote in the site's own ledger.",
		check: checkDatastore, into: func(c *Config) any { return &c.P2P.Auto.HA.ExternalDB },
	},
	{
		Key: "p2p.dynamic_roles", Default: "true",
		Meaning: "Give the place of a master that is lost to another node. With false, `muster why` only says what would be done, and `muster node replace` does it.",
		Kairos:  "false there, where true has no effect.", into: func(c *Config) any { return &c.P2P.DynamicRoles },
	},
	{
		Key: "p2p.replace_after", Default: "15m", Unit: "duration, 1s to 720h", least: time.Second, most: 720 * time.Hour,
		Meaning: "How long a master must be dead, to gossip and to etcd, before another node takes its place.",
		Kairos:  "Muster's own key.", into: func(c *Config) any { return &c.P2P.ReplaceAfter },
	},
	{
		Key: "p2p.dns", Default: "false", Meaning: "Point the local resolver at the mesh DNS, which answers on the node's mesh address in any case.",
		into: func(c *Config) any { return &c.P2P.DNS },
	},
	{
		Key: "p2p.disable_dht", Default: "false", Meaning: "Find peers on the LAN and through p2p.bootstrap only, never across the Internet.",
		into: func(c *Config) any { return &c.P2P.DisableDHT },
	},
	{
		Key: "p2p.dht_bootstrap", Unit: "multiaddrs with a peer ID", Meaning: "Servers of the Kademlia DHT in which nodes find each other across the Internet, such as `/dnsaddr/dht.example.org/p2p/12D3…`. None: libp2p's public ones.",
		Kairos: "Muster's own key; the public DHT there.", each: checkDHTServer, into: func(c *Config) any { return &c.P2P.DHTBootstrap },
	},
	{
		Key: "p2p.bootstrap", Unit: "multiaddrs", Meaning: "Addresses of nodes to dial first, beside those in the token, such as `/ip4/192.0.2.1/udp/4001/quic-v1/p2p/12D3…`.",
		Kairos: "Muster's own key; EDGEVPNBOOTSTRAPPEERS there.", each: checkMultiaddr, into: func(c *Config) any { return &c.P2P.Bootstrap },
	},
	{
		Key: "p2p.loglevel", Default: "info", Choices: []string{"info", "debug", "warn", "error", "dpanic", "panic", "fatal"},
		Meaning: "How much the agent logs. The last three count as error.",
		Kairos:  "The default there is debug.", into: func(c *Config) any { return &c.P2P.LogLevel },
	},
	{
		Key: "p2p.vpn.create", Default: "true", Meaning: "Make the VPN. With false the mesh coordinates roles and carries no traffic.",
		into: func(c *Config) any { return &c.P2P.VPN.Create },
	},
	{
		Key: "p2p.vpn.use", Default: "the value of p2p.vpn.create", Meaning: "Run Kubernetes over the VPN. With false Kubernetes stays on the LAN, which needs stable LAN addresses.",
		Kairos: "The default there is true.", into: func(c *Config) any { return &c.P2P.VPN.Use },
	},
	{
		Key: "p2p.vpn.env", Secret: true, Meaning: "EdgeVPN's environment. Each variable decodes and gives a warning that names Muster's way, if there is one.",
		Kairos: "No effect here.", into: func(c *Config) any { return &c.P2P.VPN.Env },
	},

	{
		Key: "k3s.enabled", Default: "true when p2p.network_token is set, else false", Meaning: "Run K3s. With false the machine is in the mesh and in no cluster.",
		Kairos: "The default there is false.", into: func(c *Config) any { return &c.K3s.Enabled },
	},
	{
		Key: "k3s.args", Meaning: "Flags for `k3s server`, after Muster's own. Flags that Muster sets itself are refused. A change counts from the agent's next start, which then restarts K3s.",
		each: checkArg, into: func(c *Config) any { return &c.K3s.Args }, Secret: true,
	},
	{
		Key: "k3s.replace_args", Default: "false", Meaning: "Let k3s.args replace the flags that Muster would add, save those that the cluster cannot do without.",
		into: func(c *Config) any { return &c.K3s.ReplaceArgs },
	},
	{
		Key: "k3s.env", Secret: true, Meaning: "Environment of `k3s server`. Variables that Muster sets itself are refused.",
		each: checkEnvName, into: func(c *Config) any { return &c.K3s.Env },
	},
	{
		Key: "k3s.replace_env", Default: "false", Meaning: "Let k3s.env replace the environment that Muster would add.",
		into: func(c *Config) any { return &c.K3s.ReplaceEnv },
	},
	{
		Key: "k3s.embedded_registry", Default: "false", Meaning: "K3s's embedded registry mirror on the masters.",
		into: func(c *Config) any { return &c.K3s.EmbeddedRegistry },
	},
	{
		Key: "k3s.binary", Unit: "absolute path", Meaning: "K3s's binary, when the image has none.",
		Kairos: "Muster's own key.", check: checkPath, into: func(c *Config) any { return &c.K3s.Binary },
	},
	{
		Key: "k3s.url", Unit: "http or https URL", Meaning: "Where to download K3s's binary when neither image nor k3s.binary has one. Needs k3s.sha256.",
		Kairos: "Muster's own key.", check: checkURL, show: showURL, into: func(c *Config) any { return &c.K3s.URL },
	},
	{
		Key: "k3s.sha256", Unit: "64 hexadecimal digits", Meaning: "Checksum of what k3s.url names.",
		Kairos: "Muster's own key.", check: checkSHA256, into: func(c *Config) any { return &c.K3s.SHA256 },
	},

	{
		Key: "k3s-agent.enabled", Default: "false", Meaning: "Run K3s as an agent. In a site the role decides, and k3s.enabled is enough.",
		into: func(c *Config) any { return &c.K3sAgent.Enabled },
	},
	{
		Key: "k3s-agent.args", Meaning: "Flags for `k3s agent`, after Muster's own. Flags that Muster sets itself are refused.",
		each: checkArg, into: func(c *Config) any { return &c.K3sAgent.Args }, Secret: true,
	},
	{
		Key: "k3s-agent.replace_args", Default: "false", Meaning: "As k3s.replace_args.",
		into: func(c *Config) any { return &c.K3sAgent.ReplaceArgs },
	},
	{
		Key: "k3s-agent.env", Secret: true, Meaning: "Environment of `k3s agent`. Variables that Muster sets itself are refused.",
		each: checkEnvName, into: func(c *Config) any { return &c.K3sAgent.Env },
	},
	{
		Key: "k3s-agent.replace_env", Default: "false", Meaning: "As k3s.replace_env.",
		into: func(c *Config) any { return &c.K3sAgent.ReplaceEnv },
	},
	{
		Key: "k3s-agent.embedded_registry", Default: "false", Meaning: "K3s's embedded registry mirror.",
		NoEffect: "the registry is a server's; set k3s.embedded_registry",
		into:     func(c *Config) any { return &c.K3sAgent.EmbeddedRegistry },
	},

	{
		Key: "kubevip.enable", Default: "true when kubevip.eip is set, else false",
		Meaning: "Who keeps kubevip.eip: with true, kube-vip, which the masters deploy into the cluster; with false, the masters themselves, before Kubernetes runs (docs/vip.md).",
		Kairos:  "With false, kubevip.eip does nothing there.",
		into:    func(c *Config) any { return &c.KubeVIP.Enable },
	},
	{
		Key: "kubevip.eip", Unit: "IP address",
		Meaning: "The virtual address of the API server, on the masters' network. It goes into the servers' certificate and into `muster kubeconfig`. With kubevip.enable: false it is part of the site's policy.",
		into:    func(c *Config) any { return &c.KubeVIP.EIP },
	},
	{
		Key: "kubevip.interface", Default: "the one with a network that kubevip.eip is in", Meaning: "Interface that carries the virtual address.",
		Kairos: "The default there is the first interface that is not lo.",
		check:  checkInterface, into: func(c *Config) any { return &c.KubeVIP.Interface },
	},
	{
		Key: "kubevip.static_pod", Default: "false", Meaning: "Deploy kube-vip as a static pod of each master in place of a DaemonSet.",
		Kairos: "There the pod is written among the cluster's manifests; here where the kubelet takes static pods from.",
		into:   func(c *Config) any { return &c.KubeVIP.StaticPod },
	},
	{
		Key: "kubevip.version", Default: "v1.2.3", Meaning: "Version of kube-vip's image.", check: checkOneWord,
		into: func(c *Config) any { return &c.KubeVIP.Version },
	},
	{
		Key: "kubevip.image", Default: "ghcr.io/kube-vip/kube-vip", Meaning: "kube-vip's image, without version.", check: checkOneWord,
		into: func(c *Config) any { return &c.KubeVIP.Image },
	},
	{
		Key: "kubevip.manifest_url", Unit: "http or https URL that ends in #sha256= and 64 hexadecimal digits",
		Meaning: "A manifest in place of kube-vip's account and role. What is downloaded is checked before it is applied.",
		Kairos:  "There it is not checked, and needs no checksum.", check: checkPinnedURL,
		show: showURL, into: func(c *Config) any { return &c.KubeVIP.ManifestURL },
	},

	{
		Key: "upgrade.health_deadline", Default: "10m", Unit: "duration, 1s to 24h", least: time.Second, most: 24 * time.Hour,
		Meaning: "How long this node's own K3s or kubelet, or its agent, may be dead before a new image is judged bad and the machine restarts.",
		Kairos:  "Muster's own key.", into: func(c *Config) any { return &c.Upgrade.HealthDeadline },
	},
	{
		Key: "upgrade.tries", Default: "2", Unit: "boots", Min: 1, Max: 9, Meaning: "How often an image that was never good may boot before the other slot takes over.",
		Kairos: "Muster's own key.", into: func(c *Config) any { return &c.Upgrade.Tries },
	},
}

// kairosUpgrade are Kairos's keys of the upgrade block; Muster's own upgrade reads them through Config.Block.
var kairosUpgrade = []string{
	"entry", "system", "recovery-system", "recovery", "grub-entry-name", "reboot", "poweroff", "extra-dirs-rootfs",
	"allow-insecure-registries", "excluded-paths",
}

// kubeVIPConfig are the keys of kube-vip's own configuration, which Kairos inlines (kube-vip pkg/kubevip/config_types.go).
var kubeVIPConfig = []string{
	"args", "logging", "enableARP", "enableBGP", "enableWireguard", "enableRoutingTable", "enableControlPlane", "detectControlPlane",
	"kubernetesAddr", "enableServices", "enableServicesElection", "enableNodeLabeling", "lbClassOnly", "lbClassName",
	"lbClassNameLegacyHandling", "EnableServiceSecurity", "arpBroadcastRate", "annotations", "leaderElectionType",
	"kubernetesleaderelection", "etcd", "addPeersAsBackends", "vip", "vipSubnet", "address", "port", "namespace", "serviceNamespace",
	"ddns", "leaseNodeName", "singleNode", "startAsLeader", "servicesInterface", "enableLoadBalancer", "lbPort", "lbForwardingMethod",
	"routingTableID", "routingTableType", "routingProtocol", "cleanRoutingTable", "bgpconfig", "bgppeerconfig", "bgppeers",
	"loadBalancers", "prometheusHTTPServer", "egresspodcidr", "egressservicecidr", "egresswithnftables", "servicesLeaseName",
	"k8sConfigFile", "dnsDualStackMode", "disableServiceUpdates", "enableEndpoints", "mirrorDestInterface", "iptablesBackend",
	"backendHealthCheckInterval", "loInterfaceGlobalScope", "healthCheckPort", "enableUPNP", "egressClean", "configFile",
}

// table is every key that decodes.
var table = slices.Concat(ours, inlined(), kept())

func inlined() []Field {
	var fields []Field
	for _, key := range kubeVIPConfig {
		f := Field{
			Key: "kubevip." + key, Meaning: "kube-vip's own.",
			NoEffect: "Muster writes kube-vip's manifest from eip, interface, version and image; for anything else give a manifest_url",
		}
		if key == "egresspodcidr" || key == "egressservicecidr" {
			f.check = checkCIDR
		}
		fields = append(fields, f)
	}
	return fields
}

func kept() []Field {
	var fields []Field
	for _, key := range kairosUpgrade {
		fields = append(fields, Field{Key: "upgrade." + key, Meaning: "As in Kairos."})
	}
	return fields
}

// branch is a place in the tree of our keys. A leaf has a field, anything above has children.
type branch struct {
	field    *Field
	children map[string]*branch
}

// known is the root of the tree that the table spells out.
var known = func() *branch {
	root := &branch{}
	for _, f := range table {
		root.grow(f)
	}
	return root
}()

func (b *branch) grow(f Field) {
	at := b
	for name := range strings.SplitSeq(f.Key, ".") {
		if at.children == nil {
			at.children = make(map[string]*branch)
		}
		if at.children[name] == nil {
			at.children[name] = &branch{}
		}
		at = at.children[name]
	}
	at.field = &f
}

// find returns the deepest field or block that the path reaches as a whole, or nil when a part of it is unknown.
func (b *branch) find(path []string) *branch {
	for _, name := range path {
		if b = b.children[name]; b == nil {
			return nil
		}
	}
	return b
}

func (b *branch) names() []string { return sortedKeys(b.children) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
