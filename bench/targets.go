package main

import (
	"fmt"
	"io"
)

// A target is a value that the benchmark is to reach.
type target struct {
	number, text string
	value        func(samples []sample) (float64, bool)
	limit        float64
	most         bool // the value must not be larger than limit; else not smaller
	digits       int
	unit         string
}

// Cells that targets are about.
var (
	kernelVeth  = cell{kernel, veth}
	kernelPlain = cell{kernel, plain}
	onLAN       = cell{ours, "lan"}
	onPath      = cell{oursApart, paths}
	onMem       = cell{ours, "mem"}
	onPTP       = cell{ours, "ptp"}
	rivalPTP    = cell{rival, "ptp"}
	rivalVXVDE  = cell{rival, "vxvde"}
	objects     = cell{inC, "mem"}
	hostLoop    = cell{kernelApart, loop}
	onPort      = cell{oursApart, port}
	onKept      = cell{oursApart, kept}
	onTUN       = cell{oursTUN, wg}
	onNetstack  = cell{netstack, wg}
)

// noAllocs is how many allocations for 1000 frames count as none: the runtime makes
// some itself.
const noAllocs = 10

// targets returns the targets for a machine with that many processors.
func targets(processors int) (list []target) {
	quotient := func(most bool) func(number, text string, value func([]sample) (float64, bool), limit float64) {
		return func(number, text string, value func([]sample) (float64, bool), limit float64) {
			list = append(list, target{number, text, value, limit, most, 2, ""})
		}
	}
	least, most := quotient(false), quotient(true)
	least("1", "lan, one stream ÷ veth", ratio("stream1", onLAN, kernelVeth), 0.8)
	least("1", "lan between processes, one stream ÷ veth", ratio("stream1", onPath, kernelVeth), 0.9)
	least("1", "lan between processes, one stream ÷ libvdestack over ptp", ratio("stream1", onPath, rivalPTP), 14)
	most("1", "lan between processes, round trip ÷ veth between processes", ratio("rtt", onPath, cell{kernelApart, apart}), 1.2)
	least("2", "mem, one stream ÷ veth", ratio("stream1", onMem, kernelVeth), 0.33)
	least("2", "mem, one stream ÷ veth without offloads", ratio("stream1", onMem, kernelPlain), 2)
	least("2", "mem, one stream ÷ gVisor's best", overBest("stream1", onMem, gvisor), 3)
	most("2", "mem, CPU per GB of the machine ÷ veth (1.0 s where veth takes 0.25)", ratio("stream1_cpu_machine", onMem, kernelVeth), 4)
	least("3", "vxvde, one stream ÷ libvdestack", ratio("stream1", cell{ours, "vxvde"}, rivalVXVDE), 8)
	least("3", "ptp, one stream ÷ libvdestack", ratio("stream1", onPTP, rivalPTP), 6)
	least("3", "udp, one stream ÷ libvdestack", ratio("stream1", cell{ours, "udp"}, cell{rival, "udp"}), 6)
	least("4", "vde, one stream through vde_switch ÷ libvdestack", ratio("stream1", cell{ours, "vde"}, cell{rival, "vde"}), 2.5)
	least("5", "ptp, ours to theirs ÷ two of theirs", ratio("stream1", cell{oursToRival, "ptp"}, rivalPTP), 1.2)
	least("5", "ptp, theirs to ours ÷ two of theirs", ratio("stream1", cell{rivalToOurs, "ptp"}, rivalPTP), 1.2)
	least("5", "vxvde, ours to theirs ÷ two of theirs", ratio("stream1", cell{oursToRival, "vxvde"}, rivalVXVDE), 1.2)
	least("5", "vxvde, theirs to ours ÷ two of theirs", ratio("stream1", cell{rivalToOurs, "vxvde"}, rivalVXVDE), 1.2)
	most("6", "mem, round trip ÷ libvdestack over ptp", ratio("rtt", onMem, rivalPTP), 0.65)
	most("6", "ptp, round trip ÷ libvdestack over ptp", ratio("rtt", onPTP, rivalPTP), 0.8)
	least("7", "sockets, one goroutine ÷ libvdestack", ratio("sockets1", cell{ours, loop}, cell{rival, loop}), 5)
	least("7", "sockets, eight goroutines ÷ the host", ratio("sockets8", cell{ours, loop}, cell{kernel, loop}), 0.35)
	least("7", "dial and close ÷ the host", ratio("dials", cell{ours, loop}, cell{kernel, loop}), 0.9)
	most("8", "second stack of a process, ptp, nothing prepared ÷ libvdestack's second", ratio("open_alone", onPTP, rivalPTP), 1)
	list = append(list, target{"8", "second stack of a process, mem, nothing prepared", single("open_alone", onMem), 1.2, true, 3, "ms"})
	most("8", "stacks in series, ptp, one every 5 ms ÷ libvdestack", ratio("open_series", onPTP, rivalPTP), 0.4)
	for _, c := range []cell{onLAN, onMem, onPTP} {
		list = append(list, target{"8", c.network + ", Close", single("close", c), 1, true, 3, "ms"})
	}
	for _, c := range []cell{onLAN, onMem} {
		list = append(list, target{"8", c.network + ", many stacks until wholly gone", single("scale_gone", c), 10, true, 2, "s"})
	}
	for _, c := range []cell{onLAN, onMem} {
		list = append(list,
			target{"9", c.network + ", threads of many stacks", single("scale_threads", c), float64(processors + 10), true, 0, ""},
			target{"9", c.network + ", memory of each of many stacks", single("scale_memory", c), 32, true, 1, "KiB"},
			target{"9", c.network + ", part of a processor for many idle stacks", single("scale_idle", c), 1, true, 2, "%"},
			target{"9", c.network + ", pairs of many stacks that reach each other", single("scale_reached", c), 100, false, 2, "%"})
	}
	for _, network := range []string{"mem", "ptp", "vxvde", "udp", "vde", "switch", "cmd"} {
		list = append(list, target{"10", network + ", allocations for 1000 frames", single("stream1_allocs", cell{ours, network}), noAllocs, true, 1, ""})
	}
	least("11", "switch, one stream ÷ vde_switch", ratio("stream1", cell{ours, "switch"}, cell{ours, "vde"}), 4)
	least("11", "switch, one stream of libvdestack ÷ vde_switch", ratio("stream1", cell{rival, "switch"}, cell{rival, "vde"}), 1.3)
	for _, c := range []cell{onLAN, onMem} {
		most("12", c.network+", many stacks ÷ what the kernel needs for them, made in C", ratio("crowd", c, objects), 1.25)
	}
	for _, c := range []cell{onPort, onKept} {
		least("13", c.network+", one stream ÷ the host", ratio("stream1", c, hostLoop), 0.6)
		most("13", c.network+", CPU per GB of the machine ÷ the host", ratio("stream1_cpu_machine", c, hostLoop), 1.5)
		least("13", c.network+", UDP datagrams ÷ the host", ratio("packets", c, hostLoop), 0.5)
	}
	most("13", "second stack of a process, ptp, 0.1 s after the first ÷ libvdestack's second", ratio("open", onPTP, rivalPTP), 1)
	list = append(list, target{"13", "second stack of a process, mem, 0.1 s after the first", single("open", onMem), 1.2, true, 3, "ms"})
	least("15", "wireguard, one stream ÷ netstack", ratio("stream1", onTUN, onNetstack), 3)
	most("15", "wireguard, CPU per GB of the machine ÷ netstack", ratio("stream1_cpu_machine", onTUN, onNetstack), 0.34)
	most("15", "wireguard, round trip ÷ netstack", ratio("rtt", onTUN, onNetstack), 1.2)
	return list
}

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
		r, ok := compare(samples, metric, of, to)
		return r.median, ok
	}
}

// overBest is the quotient of the median of a cell and the greatest median of a
// contestant.
func overBest(metric string, of cell, contestant string) func([]sample) (float64, bool) {
	return func(samples []sample) (float64, bool) {
		var best float64
		_, by := summarize(samples, metric)
		for c, s := range by {
			if c.contestant == contestant {
				best = max(best, s.median)
			}
		}
		s, ok := by[of]
		return s.median / best, ok && best != 0
	}
}

// writeTargets compares the samples with the targets, in Markdown.
func writeTargets(w io.Writer, samples []sample, list []target) {
	fmt.Fprint(w, "### Targets\n\n| target | | measured | wanted | reached |\n|---|---|---:|---:|---|\n")
	reached, measured := 0, 0
	for _, t := range list {
		unit, sign := "", "≥"
		if t.unit != "" {
			unit = " " + t.unit
		}
		if t.most {
			sign = "≤"
		}
		text, result := "not measured", ""
		if v, ok := t.value(samples); ok {
			measured++
			text, result = number(v, t.digits)+unit, "no"
			if t.most && v <= t.limit || !t.most && v >= t.limit {
				reached++
				result = "yes"
			}
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s %g%s | %s |\n", t.number, t.text, text, sign, t.limit, unit, result)
	}
	fmt.Fprintf(w, "\n%d of %d measured targets are reached, %d were not measured.\n", reached, measured, len(list)-measured)
}
