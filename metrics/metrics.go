// Package metrics has the counters of all stacks of a process for Prometheus:
//
//	prometheus.MustRegister(metrics.NewCollector())
//
// Stacks, interfaces, peers of tunnels, forwards and switches are found by themselves, at each
// scrape, and are gone from the next one after they were closed. dashboard.json, beside this
// file, shows them in Grafana.
//
// # Labels
//
//   - stack is the name of the stack. Of several that have one name at a time, the second has
//     "#2" behind it, and so on, as long as it lives: give stacks names of their own.
//   - interface is the name that the interface has now, network the locator of its network,
//     as [vdeplug.Redact] shows it, or of a switch. It is empty for a TUN, such as a tunnel's.
//   - listen is the address where a forward listens.
//   - peer is the public key of a peer of a WireGuard tunnel, in base64, or what another owner
//     of a TUN calls it.
//
// No label is what others on a network have said, so their number does not matter. None has the
// arguments of a command, which may be secret; the rest of a locator is for all to see who can
// read the metrics.
//
// # Counters
//
// They begin with what they count, and do not go down as long as it lives. Those of TCP and UDP
// are the kernel's own for the stack, of all processes in it, and count the datagrams and
// segments that it sees: one may stand for many frames.
//
// # Cost
//
// A scrape takes some 0.2 ms for each stack, and 0.05 ms for each interface on mem:// or lan://.
// It asks the kernel and the process only, and waits for no network and no writer of a capture.
package metrics

import (
	"fmt"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/vdeplug"
)

// A Collector collects the counters of all stacks of the process. Several registries may have
// one, and it may be called by several goroutines at once.
type Collector struct {
	mu     sync.Mutex // guards labels
	labels map[*vdestack.Stack]string
}

var _ prometheus.Collector = (*Collector)(nil)

// NewCollector returns a collector.
func NewCollector() *Collector {
	return &Collector{labels: make(map[*vdestack.Stack]string)}
}

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range all {
		ch <- m.desc
	}
}

// Collect implements [prometheus.Collector].
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	stacks := c.stacks()
	stackCount.send(ch, len(stacks))
	for _, s := range stacks {
		collectInterfaces(ch, s)
		collectSockets(ch, s)
		collectForwards(ch, s)
	}
	seen := make(names)
	for _, s := range vdeplug.Switches() {
		if vnl := text(s.VNL); seen.add(vnl) {
			switchPorts.send(ch, s.Plugs, vnl, "plug")
			switchPorts.send(ch, s.Clients, vnl, "client")
			switchStations.send(ch, s.Stations, vnl)
			switchFrames.send(ch, s.Frames, vnl)
			switchBytes.send(ch, s.Bytes, vnl)
			switchDropped.send(ch, s.Dropped, vnl)
		}
	}
}

// A labelled is a stack and its label.
type labelled struct {
	*vdestack.Stack
	label string
}

// stacks returns the stacks in use, each with the label that it has for its life.
func (c *Collector) stacks() []labelled {
	c.mu.Lock()
	defer c.mu.Unlock()
	open := vdestack.Stacks() // with the lock held: an older list would take labels away
	labels, taken := make(map[*vdestack.Stack]string, len(open)), make(names)
	for _, s := range open {
		if label, ok := c.labels[s]; ok {
			labels[s] = label
			taken.add(label)
		}
	}
	list := make([]labelled, len(open))
	last := make(map[string]int) // number of the last label, by name
	for i, s := range open {
		label, ok := labels[s]
		if !ok {
			name := text(s.Name())
			n := last[name]
			for label, ok = name, n == 0 && taken.add(name); !ok; ok = taken.add(label) {
				n = max(n, 1) + 1
				label = fmt.Sprintf("%s#%d", name, n)
			}
			labels[s], last[name] = label, max(n, 1)
		}
		list[i] = labelled{s, label}
	}
	c.labels = labels
	return list
}

func collectInterfaces(ch chan<- prometheus.Metric, s labelled) {
	seen := make(names)
	for _, i := range s.Stats().Interfaces {
		name, network := text(i.Name), text(i.VNL)
		if !seen.add(name) { // two have changed their names meanwhile
			continue
		}
		labels := []string{s.label, name, network}
		ifaceRxBytes.send(ch, i.RxBytes, labels...)
		ifaceRxFrames.send(ch, i.RxFrames, labels...)
		ifaceRxDropped.send(ch, i.RxDropped, labels...)
		ifaceTxBytes.send(ch, i.TxBytes, labels...)
		ifaceTxFrames.send(ch, i.TxFrames, labels...)
		ifaceTxDropped.send(ch, i.TxDropped, labels...)
		ifaceGRORejected.send(ch, i.GRORejected, labels...)
		plugUp.send(ch, number(i.Err == nil), labels...)
		plugReconnecting.send(ch, number(i.Reconnecting), labels...)
		plugReconnects.send(ch, i.Reconnects, labels...)
		if i.Capturing || i.CaptureErr != nil {
			captureUp.send(ch, number(i.Capturing), labels...)
			captureFrames.send(ch, i.CaptureFrames, labels...)
			captureDropped.send(ch, i.CaptureDropped, labels...)
		}
		if strings.Contains(i.VNL, "netemu://") {
			collectEmulation(ch, s, i.Name, labels)
		}
		collectPeers(ch, i.Peers, s.label, name)
	}
}

func collectPeers(ch chan<- prometheus.Metric, peers []vdestack.PeerStats, stack, iface string) {
	seen := make(names)
	for _, p := range peers {
		name := text(p.Name)
		if !seen.add(name) { // the owner of the TUN has named two alike
			continue
		}
		peerReceived.send(ch, p.RxBytes, stack, iface, name)
		peerSent.send(ch, p.TxBytes, stack, iface, name)
		peerHandshake.send(ch, p.LastHandshake, stack, iface, name)
		peerEndpoint.send(ch, number(p.Endpoint.IsValid()), stack, iface, name)
	}
}

func collectEmulation(ch chan<- prometheus.Metric, s labelled, name string, labels []string) {
	e, err := s.Emulator(name)
	if err != nil {
		return // it is gone
	}
	out, in := e.Counts()
	for direction, n := range map[string]vdeplug.EmulationCounts{"out": out, "in": in} {
		labels := append(labels[:len(labels):len(labels)], direction)
		emulated.send(ch, n.Frames, labels...)
		for impairment, n := range map[string]uint64{
			"lost": n.Lost, "duplicated": n.Duplicated, "corrupted": n.Corrupted, "reordered": n.Reordered, "dropped": n.Dropped,
		} {
			impaired.send(ch, n, append(labels[:len(labels):len(labels)], impairment)...)
		}
	}
}

func collectSockets(ch chan<- prometheus.Metric, s labelled) {
	st, err := s.SocketStats()
	if err != nil {
		return // it is closed, or the kernel's counters cannot be read
	}
	tcp, udp := st.TCP, st.UDP
	tcpSockets.send(ch, tcp.Listen, s.label, "listen")
	tcpSockets.send(ch, tcp.Established, s.label, "established")
	tcpSockets.send(ch, tcp.TimeWait, s.label, "time_wait")
	tcpSockets.send(ch, tcp.Other, s.label, "other")
	tcpActive.send(ch, tcp.ActiveOpens, s.label)
	tcpPassive.send(ch, tcp.PassiveOpens, s.label)
	tcpFails.send(ch, tcp.AttemptFails, s.label)
	tcpResets.send(ch, tcp.EstabResets, s.label)
	tcpIn.send(ch, tcp.InSegs, s.label)
	tcpOut.send(ch, tcp.OutSegs, s.label)
	tcpRetrans.send(ch, tcp.RetransSegs, s.label)
	tcpErrors.send(ch, tcp.InErrs, s.label)
	tcpRsts.send(ch, tcp.OutRsts, s.label)
	tcpTimeouts.send(ch, tcp.Timeouts, s.label)
	tcpOverflows.send(ch, tcp.ListenOverflows, s.label)
	tcpDrops.send(ch, tcp.ListenDrops, s.label)
	udpSockets.send(ch, udp.Sockets, s.label)
	udpIn.send(ch, udp.InDatagrams, s.label)
	udpOut.send(ch, udp.OutDatagrams, s.label)
	udpNoPorts.send(ch, udp.NoPorts, s.label)
	udpErrors.send(ch, udp.InErrors, s.label)
	udpReceiveBuffer.send(ch, udp.RcvbufErrors, s.label)
	udpSendBuffer.send(ch, udp.SndbufErrors, s.label)
}

func collectForwards(ch chan<- prometheus.Metric, s labelled) {
	seen := make(names)
	for _, f := range s.Forwards() {
		st := f.Stats()
		direction := "in"
		if st.Out {
			direction = "out"
		}
		labels := []string{s.label, direction, st.Network[:3], text(st.Listen)} // tcp4 is tcp
		if !seen.add(strings.Join(labels, " ")) {                               // one of them is being closed
			continue
		}
		forwardClients.send(ch, st.Open, labels...)
		forwardAccepted.send(ch, st.Accepted, labels...)
		forwardRefused.send(ch, st.Refused, labels...)
		forwardFailed.send(ch, st.Failed, labels...)
		forwardSourceLost.send(ch, st.SourceLost, labels...)
		forwardFromClients.send(ch, st.BytesIn, labels...)
		forwardFromServer.send(ch, st.BytesOut, labels...)
		if labels[2] == "udp" {
			forwardDatagramsIn.send(ch, st.Datagrams.In, labels...)
			forwardDatagramsOut.send(ch, st.Datagrams.Out, labels...)
			forwardDatagramsDropped.send(ch, st.Datagrams.Dropped, labels...)
		}
	}
}

// names are those that have been used.
type names map[string]struct{}

// add reports whether a name is new.
func (n names) add(name string) bool {
	_, ok := n[name]
	n[name] = struct{}{}
	return !ok
}

// text makes a label of what may be no UTF-8, which a registry refuses.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}
