package node

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/muster-edge/muster/p2p"
	"github.com/muster-edge/muster/p2p/ledger"
)

// metrics serves Prometheus. Values are read when they are asked for, so an idle
// node pays nothing for them.
func (a *Agent) metrics() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), siteCollector{a})
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// siteCollector shows the node as status does.
type siteCollector struct{ agent *Agent }

var (
	descReady   = prometheus.NewDesc("muster_ready", "1 while the node is healthy in its role.", nil, nil)
	descPhase   = prometheus.NewDesc("muster_phase", "1 for the phase that the node is in.", []string{"phase"}, nil)
	descSince   = prometheus.NewDesc("muster_phase_seconds", "Time in the present phase.", nil, nil)
	descMembers = prometheus.NewDesc("muster_members", "Nodes of the site by gossip status.", []string{"status"}, nil)
	descQuorum  = prometheus.NewDesc("muster_ledger_quorum", "1 while decisions can be made.", nil, nil)
	descIndex   = prometheus.NewDesc("muster_ledger_index", "Index of the last decision that this node has.", nil, nil)
	descGen     = prometheus.NewDesc("muster_ledger_generation", "How often the site's ledger was recovered.", nil, nil)
	descClash   = prometheus.NewDesc("muster_site_conflicts", "Other sites with this token in sight; `muster why` names them.", nil, nil)
	descLeads   = prometheus.NewDesc("muster_coordinator", "1 while this node coordinates the site.", nil, nil)
	descWaiting = prometheus.NewDesc("muster_waiting", "Things that the node waits for; `muster why` names them.", nil, nil)
	descImage   = prometheus.NewDesc("muster_image_info", "1 for the image that the machine was started from; no value on a machine without slots.", []string{"slot", "image", "version"}, nil)
	descVerdict = prometheus.NewDesc("muster_image_good", "1 once that image has proved good.", nil, nil)
	descVPNIn   = prometheus.NewDesc("muster_vpn_received_bytes_total", "What WireGuard received from a peer, as its own counter says.", []string{"peer"}, nil)
	descVPNOut  = prometheus.NewDesc("muster_vpn_sent_bytes_total", "What WireGuard sent to a peer, as its own counter says.", []string{"peer"}, nil)
	descVPNPath = prometheus.NewDesc("muster_vpn_path", "1 for the path that packets to a peer take: direct, relay or none.", []string{"peer", "path"}, nil)
	descPeers   = prometheus.NewDesc("muster_peers_connected", "Peers that the control plane is connected to.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c siteCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c siteCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	a := c.agent
	phase := a.phase()
	gauge(descReady, truth(phase.Phase == PhaseRunning))
	gauge(descPhase, 1, string(phase.Phase))
	gauge(descSince, time.Since(phase.Since).Seconds())
	gauge(descWaiting, float64(len(a.why())))
	if a.image != nil {
		var f Facts
		a.image.tell(&f)
		gauge(descImage, 1, f.Slot, f.Image, f.ImageVersion)
		gauge(descVerdict, truth(f.Verdict == VerdictGood))
	}
	if a.running() {
		gauge(descPeers, float64(len(a.host.Peers())))
		gauge(descClash, float64(len(a.conflicts())))
	}
	a.mu.Lock()
	l, membership, mesh := a.ledger, a.membership, a.mesh
	a.mu.Unlock()
	if mesh != nil {
		// A device that cannot be read says so in `muster why`.
		peers, _ := mesh.vpn.Peers()
		for _, p := range peers {
			ch <- prometheus.MustNewConstMetric(descVPNIn, prometheus.CounterValue, float64(p.ReceivedBytes), p.ID)
			ch <- prometheus.MustNewConstMetric(descVPNOut, prometheus.CounterValue, float64(p.SentBytes), p.ID)
			gauge(descVPNPath, 1, p.ID, string(mesh.path(p.Address.String())))
		}
	}
	if membership != nil {
		count := map[p2p.MemberStatus]float64{}
		for _, m := range membership.Members() {
			count[m.Status]++
		}
		for _, s := range []p2p.MemberStatus{p2p.MemberAlive, p2p.MemberSuspect, p2p.MemberDead, p2p.MemberLeft} {
			gauge(descMembers, count[s], s.String())
		}
	}
	if l != nil {
		gauge(descQuorum, truth(l.Status().Quorum))
		gauge(descIndex, float64(l.Index()))
		gauge(descGen, float64(ledger.GenerationNumber(l.Site().Generation)))
		gauge(descLeads, truth(l.IsCoordinator()))
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
