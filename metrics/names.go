package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A metric is a name with its labels.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

// all are those that the collector may send.
var all []metric

func counter(name, help string, labels ...string) metric {
	return newMetric(prometheus.CounterValue, name+"_total", help, labels)
}

func gauge(name, help string, labels ...string) metric {
	return newMetric(prometheus.GaugeValue, name, help, labels)
}

func newMetric(kind prometheus.ValueType, name, help string, labels []string) metric {
	m := metric{prometheus.NewDesc("vdestack_"+name, help, labels, nil), kind}
	all = append(all, m)
	return m
}

// send sends a value. The labels are those of the description, in UTF-8.
func (m metric) send(ch chan<- prometheus.Metric, value any, labels ...string) {
	var v float64
	switch value := value.(type) {
	case int:
		v = float64(value)
	case uint64:
		v = float64(value)
	case time.Time:
		if !value.IsZero() {
			v = float64(value.UnixMilli()) / 1000
		}
	}
	ch <- prometheus.MustNewConstMetric(m.desc, m.kind, v, labels...)
}

// Labels.
var (
	ofInterface = []string{"stack", "interface", "network"}
	ofPeer      = []string{"stack", "interface", "peer"}
	ofForward   = []string{"stack", "direction", "protocol", "listen"}
)

var (
	stackCount = gauge("stacks", "Stacks in use.")

	ifaceRxBytes     = counter("interface_receive_bytes", "Bytes of frames that an interface has received.", ofInterface...)
	ifaceRxFrames    = counter("interface_receive_frames", "Frames that an interface has received.", ofInterface...)
	ifaceRxDropped   = counter("interface_receive_dropped_frames", "Frames that arrived at an interface and were dropped.", ofInterface...)
	ifaceTxBytes     = counter("interface_transmit_bytes", "Bytes of frames that an interface has sent.", ofInterface...)
	ifaceTxFrames    = counter("interface_transmit_frames", "Frames that an interface has sent.", ofInterface...)
	ifaceTxDropped   = counter("interface_transmit_dropped_frames", "Frames that were dropped on the way from an interface to its network.", ofInterface...)
	ifaceGRORejected = counter("interface_gro_rejected_packets", "Packets of joined frames that the kernel did not take.", ofInterface...)

	plugUp           = gauge("plug_up", "Whether the network of an interface is there.", ofInterface...)
	plugReconnecting = gauge("plug_reconnecting", "Whether the network of an interface is being opened again. Without that, one that is not there is gone for good.", ofInterface...)
	plugReconnects   = counter("plug_reconnects", "How often the network of an interface was opened again.", ofInterface...)

	captureUp      = gauge("capture_up", "Whether the frames of an interface are recorded; 0 after an error of the writer.", ofInterface...)
	captureFrames  = counter("capture_frames", "Frames that were recorded.", ofInterface...)
	captureDropped = counter("capture_dropped_frames", "Frames that were not recorded, because the writer was too slow or had an error.", ofInterface...)

	peerReceived  = counter("tunnel_peer_receive_bytes", "Bytes outside of the tunnel that came from a peer.", ofPeer...)
	peerSent      = counter("tunnel_peer_transmit_bytes", "Bytes outside of the tunnel that were sent to a peer.", ofPeer...)
	peerHandshake = gauge("tunnel_peer_last_handshake_timestamp_seconds", "When a peer has last agreed on keys, since 1970; 0 if it has not.", ofPeer...)
	peerEndpoint  = gauge("tunnel_peer_endpoint_known", "Whether it is known where packets for a peer are to be sent.", ofPeer...)

	emulated = counter("emulation_frames", "Frames on a network of netemu while there was an impairment.", append(ofInterface, "direction")...)
	impaired = counter("emulation_impaired_frames", "Frames that a network of netemu has impaired.", append(ofInterface, "direction", "impairment")...)

	tcpSockets   = gauge("tcp_sockets", "TCP sockets by state: established has CLOSE-WAIT too, other are being connected or closed.", "stack", "state")
	tcpActive    = counter("tcp_active_opens", "TCP connections begun by the stack.", "stack")
	tcpPassive   = counter("tcp_passive_opens", "TCP connections begun by peers.", "stack")
	tcpFails     = counter("tcp_attempt_fails", "TCP connections that did not come about.", "stack")
	tcpResets    = counter("tcp_established_resets", "TCP connections that ended by a reset.", "stack")
	tcpIn        = counter("tcp_receive_segments", "TCP segments received, those in error included.", "stack")
	tcpOut       = counter("tcp_transmit_segments", "TCP segments sent, without retransmissions.", "stack")
	tcpRetrans   = counter("tcp_retransmitted_segments", "TCP segments sent again.", "stack")
	tcpErrors    = counter("tcp_receive_errors", "TCP segments received in error.", "stack")
	tcpRsts      = counter("tcp_transmit_resets", "TCP resets sent.", "stack")
	tcpTimeouts  = counter("tcp_timeouts", "How often nothing was acknowledged until the retransmission timer of TCP ran out.", "stack")
	tcpOverflows = counter("tcp_listen_overflows", "TCP connections that found the queue of a listener full.", "stack")
	tcpDrops     = counter("tcp_listen_drops", "TCP connections that a listener dropped, for whatever reason.", "stack")

	udpSockets       = gauge("udp_sockets", "UDP sockets with a port.", "stack")
	udpIn            = counter("udp_receive_datagrams", "UDP datagrams delivered.", "stack")
	udpOut           = counter("udp_transmit_datagrams", "UDP datagrams sent.", "stack")
	udpNoPorts       = counter("udp_no_port_datagrams", "UDP datagrams for a port without a socket.", "stack")
	udpErrors        = counter("udp_receive_errors", "UDP datagrams not delivered for other reasons, a full buffer included.", "stack")
	udpReceiveBuffer = counter("udp_receive_buffer_errors", "UDP datagrams that found the buffer of a socket full.", "stack")
	udpSendBuffer    = counter("udp_send_buffer_errors", "UDP datagrams that were not sent for lack of room.", "stack")

	forwardClients          = gauge("forward_clients", "Connections, or flows of UDP, of a forward.", ofForward...)
	forwardAccepted         = counter("forward_accepted_clients", "Clients that a forward has accepted.", ofForward...)
	forwardRefused          = counter("forward_refused_clients", "Connections and datagrams refused by a forward because there were too many clients.", ofForward...)
	forwardFailed           = counter("forward_failed_clients", "Clients whose server could not be reached.", ofForward...)
	forwardSourceLost       = counter("forward_source_lost_clients", "Clients whose address could not be kept.", ofForward...)
	forwardFromClients      = counter("forward_client_bytes", "Bytes from clients to the server.", ofForward...)
	forwardFromServer       = counter("forward_server_bytes", "Bytes from the server to clients.", ofForward...)
	forwardDatagramsIn      = counter("forward_client_datagrams", "UDP datagrams from clients to the server.", ofForward...)
	forwardDatagramsOut     = counter("forward_server_datagrams", "UDP datagrams from the server to clients.", ofForward...)
	forwardDatagramsDropped = counter("forward_dropped_datagrams", "UDP datagrams that could not be sent on.", ofForward...)

	switchPorts    = gauge("switch_ports", "Ports of a switch of the process: its plugs, and clients of other processes.", "network", "kind")
	switchStations = gauge("switch_stations", "Addresses that a switch remembers.", "network")
	switchFrames   = counter("switch_frames", "Frames that came from the ports of a switch.", "network")
	switchBytes    = counter("switch_bytes", "Bytes of frames that came from the ports of a switch.", "network")
	switchDropped  = counter("switch_dropped_frames", "Frames that a switch did not take, or that found no room in a port.", "network")
)
