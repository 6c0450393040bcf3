package config

import (
	"strings"
	"time"
)

// defaults are the values of keys that nobody wrote, save those that follow from other keys (implied).
func defaults() *Config {
	return &Config{
		P2P: P2P{
			NetworkID:    "kairos",
			LogLevel:     "info",
			MinimumNodes: 2,
			ReplaceAfter: 15 * time.Minute,
			DynamicRoles: true,
			VPN:          VPN{Create: true, Use: true},
			Auto:         Auto{Enable: true, HA: HA{MasterNodes: 2}},
		},
		KubeVIP: KubeVIP{Version: "v1.2.3", Image: "ghcr.io/kube-vip/kube-vip"},
		Upgrade: Upgrade{HealthDeadline: 10 * time.Minute, Tries: 2},
		origins: make(map[string]Origin),
	}
}

// implied fills in what follows from other keys and refuses combinations that cannot be meant.
func (d *decoder) implied() {
	c := d.config
	written := func(key string) bool { _, ok := c.origins[key]; return ok }

	if strings.Contains(c.Hostname, "{{") {
		d.warn(c.Origin("hostname"), "hostname", "has no effect: it is a template; set the hostname in a stage, which renders it")
		c.Hostname = ""
		delete(c.origins, "hostname")
	}
	if c.P2P.Role == "auto" || c.P2P.Role == "none" {
		c.P2P.Role = ""
	}
	switch c.P2P.LogLevel {
	case "dpanic", "panic", "fatal":
		c.P2P.LogLevel = "error"
	}
	c.P2P.NetworkToken = Secret(strings.TrimSpace(c.P2P.NetworkToken.Reveal()))
	if block := d.config.root.get("p2p"); block != nil && block.kind == kindMap && !written("p2p.network_token") {
		d.warn(block.origin, "p2p", "has no effect: there is no p2p.network_token, so this machine joins no mesh")
	}

	ha := &c.P2P.Auto.HA
	count := "p2p.auto.ha.master_nodes"
	if !written("p2p.auto.ha.enable") {
		ha.Enable = written(count)
	} else if !ha.Enable && written(count) {
		d.warn(c.Origin(count), count, "has no effect: p2p.auto.ha.enable is false")
	}
	if total := c.P2P.Masters(); total%2 == 0 {
		d.refuse(c.Origin(count), count, "%d additional + 1 first = %d masters in all, and an even total is refused: "+
			"it tolerates no more failures than %d; use %d", ha.MasterNodes, total, total-1, total)
	}

	if c.P2P.JoinOnly && written("p2p.minimum_nodes") && c.P2P.MinimumNodes == 1 {
		d.refuse(c.Origin("p2p.join_only"), "p2p.join_only", "contradicts p2p.minimum_nodes: 1: a node that forms a site alone "+
			"cannot also wait for one")
	}
	if !c.P2P.Auto.Enable && c.P2P.Role == "" && written("p2p.network_token") {
		d.warn(c.Origin("p2p.auto.enable"), "p2p.auto.enable", "without a p2p.role this machine gets no role")
	}
	if vpn := &c.P2P.VPN; !vpn.Create {
		if vpn.Use && written("p2p.vpn.use") {
			d.refuse(c.Origin("p2p.vpn.use"), "p2p.vpn.use", "needs the VPN that p2p.vpn.create: false leaves out")
		}
		vpn.Use = false
	}

	if !written("k3s.enabled") {
		c.K3s.Enabled = c.P2P.NetworkToken != ""
	}
	c.K3s.SHA256 = strings.ToLower(c.K3s.SHA256)
	switch {
	case c.K3s.URL != "" && c.K3s.SHA256 == "":
		d.refuse(c.Origin("k3s.url"), "k3s.url", "needs k3s.sha256: what is downloaded is checked before it runs")
	case c.K3s.SHA256 != "" && c.K3s.URL == "":
		d.warn(c.Origin("k3s.sha256"), "k3s.sha256", "has no effect: there is no k3s.url")
	}

	if !written("kubevip.enable") {
		c.KubeVIP.Enable = c.KubeVIP.EIP.IsValid()
	} else if c.KubeVIP.Enable && !c.KubeVIP.EIP.IsValid() {
		d.refuse(c.Origin("kubevip.enable"), "kubevip.enable", "needs kubevip.eip, the address to keep")
	}
	if eip := c.KubeVIP.EIP; eip.IsValid() && (!eip.IsGlobalUnicast() || eip.Zone() != "") {
		d.refuse(c.Origin("kubevip.eip"), "kubevip.eip", "must be the address of one machine on the masters' network")
	}
	if !c.KubeVIP.Enable {
		for _, key := range []string{"kubevip.static_pod", "kubevip.version", "kubevip.image", "kubevip.manifest_url"} {
			if written(key) {
				d.warn(c.Origin(key), key, "has no effect: kube-vip is not deployed (kubevip.enable)")
			}
		}
	}
}
