package main

import (
	"strings"
	"testing"
)

func TestTargets(t *testing.T) {
	samples := []sample{
		{1, onMem, "stream1", 12}, {2, onMem, "stream1", 14}, {1, onLAN, "stream1", 35}, {1, kernelVeth, "stream1", 40}, {1, kernelPlain, "stream1", 6},
		{1, cell{gvisor, "pipe"}, "stream1", 1}, {1, cell{gvisor, "gso"}, "stream1", 4},
		{1, onPTP, "open_alone", 1.5}, {1, onPTP, "open_series", 0.6}, {1, rivalPTP, "open_series", 1}, {1, rivalPTP, "open_alone", 1}, {1, onMem, "close", 0.7},
		{1, onPort, "stream1", 6}, {1, hostLoop, "stream1", 9}, {1, onPort, "packets", 90}, {1, hostLoop, "packets", 200},
		{1, onTUN, "stream1", 6}, {1, onNetstack, "stream1", 1}, {1, onTUN, "rtt", 50}, {1, onNetstack, "rtt", 40},
		{1, onMem, "scale_threads", 12}, {1, onLAN, "scale_threads", 13},
	}
	list := targets(2)
	numbers := make(map[string]bool)
	for _, target := range list {
		numbers[target.number] = true
	}
	if len(numbers) != 14 {
		t.Errorf("%d targets have numbers of their own, want 14", len(numbers))
	}
	var got strings.Builder
	writeTargets(&got, samples, list)
	for _, want := range []string{
		"| 1 | lan, one stream ÷ veth | 0.88 | ≥ 0.8 | yes |\n",
		"| 2 | mem, one stream ÷ veth | 0.33 | ≥ 0.33 | no |\n",
		"| 2 | mem, one stream ÷ veth without offloads | 2.17 | ≥ 2 | yes |\n",
		"| 2 | mem, one stream ÷ gVisor's best | 3.25 | ≥ 3 | yes |\n",
		"| 8 | second stack of a process, ptp, nothing prepared ÷ libvdestack's second | 1.50 | ≤ 1 | no |\n",
		"| 8 | stacks in series, ptp, one every 5 ms ÷ libvdestack | 0.60 | ≤ 0.4 | no |\n",
		"| 8 | mem, Close | 0.700 ms | ≤ 1 ms | yes |\n",
		"| 8 | ptp, Close | not measured | ≤ 1 ms |  |\n",
		"| 8 | second stack of a process, mem, nothing prepared | not measured | ≤ 1.2 ms |  |\n",
		"| 13 | forward, one stream ÷ the host | 0.67 | ≥ 0.6 | yes |\n",
		"| 13 | forward, UDP datagrams ÷ the host | 0.45 | ≥ 0.5 | no |\n",
		"| 13 | keepsource, UDP datagrams ÷ the host | not measured | ≥ 0.5 |  |\n",
		"| 15 | wireguard, one stream ÷ netstack | 6.00 | ≥ 3 | yes |\n",
		"| 15 | wireguard, round trip ÷ netstack | 1.25 | ≤ 1.2 | no |\n",
		"| 15 | wireguard, CPU per GB of the machine ÷ netstack | not measured | ≤ 0.34 |  |\n",
		"| 9 | mem, threads of many stacks | 12 | ≤ 12 | yes |\n",
		"| 9 | lan, threads of many stacks | 13 | ≤ 12 | no |\n",
		"| 7 | dial and close ÷ the host | not measured | ≥ 0.9 |  |\n",
	} {
		if !strings.Contains(got.String(), want) {
			t.Errorf("got\n%s\nwant in it %s", got.String(), want)
		}
	}
}
