package main

import (
	"fmt"
	"io"
)

// A bar is what a value has to reach.
type bar struct {
	number string
	text   string
	digits int
	unit   string
	value  func(samples []sample) (float64, bool)
	limit  float64
	atMost bool // or else at least
}

// verdict is a bar, and what was seen.
type verdict struct {
	bar
	seen     float64
	measured bool
	met      bool
}

// Cells that bars are about.
var (
	kernelVeth  = cell{kernel, veth}
	kernelPlain = cell{kernel, plain}
	onLAN       = cell{ours, "lan"}
	onMem       = cell{ours, "mem"}
	onPTP       = cell{ours, "ptp"}
	rivalPTP    = cell{rival, "ptp"}
	rivalVXVDE  = cell{rival, "vxvde"}
)

// bars returns the bars for a machine with so many processors.
func bars(processors int) []bar {
	list := []bar{
		{"1", "lan, one stream ÷ veth", 2, "", ratio("stream1", onLAN, kernelVeth), 0.8, false},
		{"2", "mem, one stream ÷ veth", 2, "", ratio("stream1", onMem, kernelVeth), 0.33, false},
		{"2", "mem, one stream ÷ veth without offloads", 2, "", ratio("stream1", onMem, kernelPlain), 2, false},
		{"2", "mem, one stream ÷ gVisor's best", 2, "", overBest("stream1", onMem, gvisor), 3, false},
		{"2", "mem, CPU per GB of the machine ÷ veth (1.0 s where veth takes 0.25)", 2, "", ratio("stream1_cpu_machine", onMem, kernelVeth), 4, true},
		{"3", "vxvde, one stream ÷ libvdestack", 2, "", ratio("stream1", cell{ours, "vxvde"}, rivalVXVDE), 8, false},
		{"3", "ptp, one stream ÷ libvdestack", 2, "", ratio("stream1", onPTP, rivalPTP), 6, false},
		{"3", "udp, one stream ÷ libvdestack", 2, "", ratio("stream1", cell{ours, "udp"}, cell{rival, "udp"}), 6, false},
		{"4", "vde, one stream through vde_switch ÷ libvdestack", 2, "", ratio("stream1", cell{ours, "vde"}, cell{rival, "vde"}), 2.5, false},
		{"5", "ptp, ours to theirs ÷ two of theirs", 2, "", ratio("stream1", cell{oursToRival, "ptp"}, rivalPTP), 1.2, false},
		{"5", "ptp, theirs to ours ÷ two of theirs", 2, "", ratio("stream1", cell{rivalToOurs, "ptp"}, rivalPTP), 1.2, false},
		{"5", "vxvde, ours to theirs ÷ two of theirs", 2, "", ratio("stream1", cell{oursToRival, "vxvde"}, rivalVXVDE), 1.2, false},
		{"5", "vxvde, theirs to ours ÷ two of theirs", 2, "", ratio("stream1", cell{rivalToOurs, "vxvde"}, rivalVXVDE), 1.2, false},
		{"6", "mem, round trip ÷ libvdestack over ptp", 2, "", ratio("rtt", onMem, rivalPTP), 0.65, true},
		{"6", "ptp, round trip ÷ libvdestack over ptp", 2, "", ratio("rtt", onPTP, rivalPTP), 0.8, true},
		{"7", "sockets, one goroutine ÷ libvdestack", 2, "", ratio("sockets1", cell{ours, loop}, cell{rival, loop}), 5, false},
		{"7", "sockets, eight goroutines ÷ the host", 2, "", ratio("sockets8", cell{ours, loop}, cell{kernel, loop}), 0.35, false},
		{"7", "dial and close ÷ the host", 2, "", ratio("dials", cell{ours, loop}, cell{kernel, loop}), 0.6, false},
		{"8", "second stack of a process, ptp, nothing prepared ÷ libvdestack's second", 2, "", ratio("open", onPTP, rivalPTP), 1.1, true},
		{"8", "stacks in series, ptp, one every 5 ms ÷ libvdestack", 2, "", ratio("open_series", onPTP, rivalPTP), 0.4, true},
	}
	for _, c := range []cell{onLAN, onMem, onPTP} {
		list = append(list, bar{"8", c.network + ", Close", 3, "ms", single("close", c), 1, true})
	}
	for _, c := range []cell{onLAN, onMem} {
		list = append(list, bar{"8", c.network + ", the crowd until wholly gone", 2, "s", single("crowd_gone", c), 10, true})
	}
	for _, c := range []cell{onLAN, onMem} {
		list = append(list,
			bar{"9", c.network + ", the crowd's threads", 0, "", single("crowd_threads", c), float64(processors + 10), true},
			bar{"9", c.network + ", the crowd's memory for each stack", 1, "KiB", single("crowd_memory", c), 32, true},
			bar{"9", c.network + ", the idle crowd's part of a processor", 2, "%", single("crowd_idle", c), 1, true},
			bar{"9", c.network + ", pairs of the crowd that reach each other", 2, "%", single("crowd_reached", c), 100, false})
	}
	for _, network := range []string{"mem", "ptp", "vxvde", "udp", "vde", "switch", "cmd"} {
		list = append(list, bar{"10", network + ", allocations for 1000 frames", 1, "", single("stream1_allocs", cell{ours, network}), noAllocs, true})
	}
	list = append(list,
		bar{"11", "switch, one stream ÷ vde_switch", 2, "", ratio("stream1", cell{ours, "switch"}, cell{ours, "vde"}), 4, false},
		bar{"11", "switch, one stream of libvdestack ÷ vde_switch", 2, "", ratio("stream1", cell{rival, "switch"}, cell{rival, "vde"}), 1.3, false})
	return list
}

// noAllocs is how many allocations for 1000 frames are none: the runtime makes
// some by itself.
const noAllocs = 10

// single is the median of a metric.
func single(metric string, c cell) func([]sample) (float64, bool) {
	return func(samples []sample) (float64, bool) {
		_, by := summarize(samples, metric)
		s, ok := by[c]
		return s.median, ok
	}
}

// ratio is the quotient of the medians of two cells.
func ratio(metric string, of, to cell) func([]sample) (float64, bool) {
	return func(samples []sample) (float64, bool) {
		a, ok := single(metric, of)(samples)
		b, ok2 := single(metric, to)(samples)
		return a / b, ok && ok2 && b != 0
	}
}

// overBest is the quotient of the median of a cell and the greatest median of a
// contestant.
func overBest(metric string, of cell, contestant string) func([]sample) (float64, bool) {
	return func(samples []sample) (float64, bool) {
		a, ok := single(metric, of)(samples)
		var best float64
		_, by := summarize(samples, metric)
		for c, s := range by {
			if c.contestant == contestant {
				best = max(best, s.median)
			}
		}
		return a / best, ok && best != 0
	}
}

// judge compares the samples with the bars.
func judge(samples []sample, bars []bar) []verdict {
	var list []verdict
	for _, b := range bars {
		v := verdict{bar: b}
		v.seen, v.measured = b.value(samples)
		v.met = v.measured && (b.atMost && v.seen <= b.limit || !b.atMost && v.seen >= b.limit)
		list = append(list, v)
	}
	return list
}

// writeVerdicts writes what was seen beside what was wanted, in Markdown.
func writeVerdicts(w io.Writer, list []verdict) {
	fmt.Fprint(w, "### Bars\n\n| bar | | seen | wanted | met |\n|---|---|---:|---:|---|\n")
	met, measured := 0, 0
	for _, v := range list {
		seen, result := "not measured", ""
		if v.measured {
			measured++
			seen, result = number(v.seen, v.digits), "no"
			if v.unit != "" {
				seen += " " + v.unit
			}
		}
		if v.met {
			met++
			result = "yes"
		}
		sign := "≥"
		if v.atMost {
			sign = "≤"
		}
		wanted := fmt.Sprintf("%s %g", sign, v.limit)
		if v.unit != "" {
			wanted += " " + v.unit
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s |\n", v.number, v.text, seen, wanted, result)
	}
	fmt.Fprintf(w, "\n%d of %d measured bars are met, %d were not measured.\n", met, measured, len(list)-measured)
}
