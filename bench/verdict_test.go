package main

import (
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	samples := []sample{
		{1, onMem, "stream1", 12}, {2, onMem, "stream1", 14}, {1, onLAN, "stream1", 35}, {1, kernelVeth, "stream1", 40}, {1, kernelPlain, "stream1", 6},
		{1, cell{gvisor, "pipe"}, "stream1", 1}, {1, cell{gvisor, "gso"}, "stream1", 4},
		{1, onPTP, "open", 1.5}, {1, onPTP, "open_series", 0.6}, {1, rivalPTP, "open_series", 1}, {1, rivalPTP, "open", 1}, {1, onMem, "close", 0.7},
		{1, onMem, "crowd_threads", 12}, {1, onLAN, "crowd_threads", 13},
	}
	want := map[string]string{ // by the text of the bar: what was seen, and whether it is met
		"lan, one stream ÷ veth":                                                  "0.88 yes",
		"mem, one stream ÷ veth":                                                  "0.33 no",
		"mem, one stream ÷ veth without offloads":                                 "2.17 yes",
		"mem, one stream ÷ gVisor's best":                                         "3.25 yes",
		"second stack of a process, ptp, nothing prepared ÷ libvdestack's second": "1.50 no",
		"stacks in series, ptp, one every 5 ms ÷ libvdestack":                     "0.60 no",
		"mem, Close":                "0.700 yes",
		"mem, the crowd's threads":  "12 yes",
		"lan, the crowd's threads":  "13 no",
		"ptp, Close":                "not measured",
		"dial and close ÷ the host": "not measured",
	}
	list := judge(samples, bars(2))
	numbers := make(map[string]bool)
	for _, v := range list {
		numbers[v.number] = true
		expected, ok := want[v.text]
		if !ok {
			continue
		}
		delete(want, v.text)
		got := "not measured"
		if v.measured {
			got = number(v.seen, v.digits) + map[bool]string{true: " yes", false: " no"}[v.met]
		}
		if got != expected {
			t.Errorf("%s: %s, want %s", v.text, got, expected)
		}
	}
	for text := range want {
		t.Errorf("no bar is called %q", text)
	}
	if len(numbers) != 11 {
		t.Errorf("%d bars have numbers of their own, want 11", len(numbers))
	}
	var got strings.Builder
	writeVerdicts(&got, list)
	for _, want := range []string{
		"| 1 | lan, one stream ÷ veth | 0.88 | ≥ 0.8 | yes |\n",
		"| 8 | mem, Close | 0.700 ms | ≤ 1 ms | yes |\n",
		"| 8 | ptp, Close | not measured | ≤ 1 ms |  |\n",
	} {
		if !strings.Contains(got.String(), want) {
			t.Errorf("got\n%s\nwant in it %s", got.String(), want)
		}
	}
}
