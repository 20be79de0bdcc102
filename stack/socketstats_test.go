package stack

import "testing"

// TestDecodeSocketStats reads files of Linux 6.18, with other numbers, and without IPv6.
func TestDecodeSocketStats(t *testing.T) {
	const (
		snmp = "Ip: Forwarding DefaultTTL\nIp: 1 64\n" +
			"Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors\n" +
			"Tcp: 1 200 120000 -1 1 2 3 4 5 6 7 8 9 10 11\n" +
			"Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors\n" +
			"Udp: 1 2 3 4 5 6 7 8 9\n" +
			"UdpLite: InDatagrams\nUdpLite: 99\n"
		snmp6 = "Udp6InDatagrams                 \t10\nUdp6NoPorts                     \t20\nUdp6InErrors                    \t30\n" +
			"Udp6OutDatagrams                \t40\nUdp6RcvbufErrors                \t50\nUdp6SndbufErrors                \t60\nUdpLite6InDatagrams             \t99\n"
		sockstat  = "sockets: used 15\nTCP: inuse 7 orphan 0 tw 3 alloc 7 mem 0\nUDP: inuse 4 mem 2\nUDPLITE: inuse 0\nRAW: inuse 0\nFRAG: inuse 0 memory 0\n"
		sockstat6 = "TCP6: inuse 2\nUDP6: inuse 1\nUDPLITE6: inuse 0\n"
		netstat   = "TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPTimeouts\nTcpExt: 1 2 3 4\nIpExt: InNoRoutes\nIpExt: 0\n"
	)
	tcp := TCPStats{
		Listen: 2, Established: 5, TimeWait: 3, Other: 2,
		ActiveOpens: 1, PassiveOpens: 2, AttemptFails: 3, EstabResets: 4, InSegs: 6, OutSegs: 7, RetransSegs: 8, InErrs: 9, OutRsts: 10,
		Timeouts: 4, ListenOverflows: 2, ListenDrops: 3,
	}
	without6 := tcp
	without6.Other = 0
	for _, tt := range []struct {
		name  string
		texts []string
		want  SocketStats
	}{
		{"all", []string{snmp, snmp6, sockstat, sockstat6, netstat}, SocketStats{tcp, UDPStats{5, 11, 44, 22, 33, 55, 66}}},
		{"without IPv6", []string{snmp, "", sockstat, "", netstat}, SocketStats{without6, UDPStats{4, 1, 4, 2, 3, 5, 6}}},
		{"nothing", make([]string, 5), SocketStats{TCP: TCPStats{Listen: 2}}},
		{"cut off", []string{"Tcp: ActiveOpens\nTcp: 1 2\nUdp: InDatagrams\n", "Udp6InDatagrams\n", "TCP: inuse\n", "", "TcpExt:"}, SocketStats{TCP: TCPStats{Listen: 2, ActiveOpens: 1}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got SocketStats
			got.decode(tt.texts, 2)
			if got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}
