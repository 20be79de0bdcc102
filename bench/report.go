package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strconv"
)

// A table presents one metric.
type table struct {
	metric, unit, title string
	digits              int
	more                []column // other metrics of the same cells
}

// A column presents the median of a metric.
type column struct {
	metric, unit, head string
	digits             int
}

// traffic is a table of streams.
func traffic(metric, title string) table {
	return table{metric: metric, unit: "Gbit/s", digits: 2, title: title, more: []column{
		{metric + "_cpu_machine", "s/GB", "CPU s/GB of the machine", 2},
		{metric + "_cpu_processes", "s/GB", "CPU s/GB of its processes", 2},
		{metric + "_allocs", "1/1000 frames", "allocations/1000 frames", 2},
	}}
}

// tables are in the order of the report.
var tables = []table{
	traffic("stream1", "TCP throughput, one stream, 128 KiB writes, MTU 1500 (more is better)"),
	traffic("stream4", "TCP throughput, four streams, 128 KiB writes, MTU 1500 (more is better)"),
	traffic("jumbo1", "TCP throughput, one stream, 128 KiB writes, MTU 9000 (more is better)"),
	traffic("jumbo4", "TCP throughput, four streams, 128 KiB writes, MTU 9000 (more is better)"),
	{metric: "rtt", unit: "µs", digits: 1, title: "TCP round trip of 64 bytes, p50, everything on one processor (less is better)",
		more: []column{{"rtt_p10", "µs", "p10", 1}, {"rtt_p90", "µs", "p90", 1}, {"rtt_p99", "µs", "p99", 1}}},
	{metric: "packets", unit: "1000/s", digits: 1, title: "UDP datagrams of 1200 bytes there and back, 64 on their way (more is better)",
		more: []column{{"packets_lost", "%", "% lost", 2}, {"packets_cpu", "µs", "CPU µs of its processes for each", 2}}},
	{metric: "open", unit: "ms", digits: 3, title: "Time to make a stack and its first socket: the second of a process, 0.1 s after the first (less is better)",
		more: []column{{"open_first", "ms", "the first of a process", 3}, {"open_alone", "ms", "1.5 s after another, nothing prepared", 3}, {"open_series", "ms", "one every 5 ms", 3}, {"open_burst", "ms", "one after the other", 3}}},
	{metric: "open_series", unit: "ms", digits: 3, title: "Time to make a stack and its first socket, one every 5 ms (less is better)"},
	{metric: "close", unit: "ms", digits: 3, title: "Time until Close of a stack returns (less is better)",
		more: []column{{"close_max", "ms", "greatest", 3}}},
	{metric: "sockets1", unit: "1000/s", digits: 1, title: "Sockets made and closed, 1 goroutine or thread (more is better)"},
	{metric: "sockets8", unit: "1000/s", digits: 1, title: "Sockets made and closed, 8 goroutines or threads (more is better)"},
	{metric: "dials", unit: "1000/s", digits: 1, title: "TCP connections dialled and closed within a stack (more is better)"},
	{metric: "crowd", unit: "ms", digits: 3, title: "Time to make each of many stacks on one network, one after the other (less is better)",
		more: []column{{"crowd_together", "ms", "eight at once", 3}}},
	{metric: "scale_memory", unit: "KiB/stack", digits: 1, title: "Many stacks at once: memory of the process for each (less is better)",
		more: []column{{"scale_open", "ms", "ms to make one", 3}, {"scale_threads", "", "threads", 0}, {"scale_idle", "%", "% of a processor, idle", 2},
			{"scale_reached", "%", "% of pairs reached", 1}, {"scale_close", "s", "s to close all", 3}, {"scale_gone", "s", "s until all are gone", 3}}},
}

// writeTables writes the tables for which there are samples, in Markdown.
func writeTables(w io.Writer, samples []sample) {
	for _, t := range tables {
		t.write(w, samples)
	}
}

func (t *table) write(w io.Writer, samples []sample) {
	order, by := summarize(samples, t.metric)
	if len(order) == 0 {
		return
	}
	base := slices.IndexFunc(order, func(c cell) bool { return c.contestant == kernel || c.contestant == kernelApart })
	fmt.Fprintf(w, "### %s\n\n| network | stack | median %s | min | max |", t.title, t.unit)
	rule := "|---|---|---:|---:|---:|"
	head := func(name string) {
		fmt.Fprintf(w, " %s |", name)
		rule += "---:|"
	}
	var more []column
	var others []map[cell]summary
	for _, b := range t.more {
		if order, by := summarize(samples, b.metric); len(order) > 0 {
			head(b.head)
			more, others = append(more, b), append(others, by)
		}
	}
	if base >= 0 {
		head("÷ " + order[base].network)
	}
	head("÷ " + rival)
	fmt.Fprintf(w, "\n%s\n", rule)

	for _, c := range order {
		s := by[c]
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s |", c.network, c.contestant, number(s.median, t.digits), number(s.min, t.digits), number(s.max, t.digits))
		for i, b := range more {
			text := "—"
			if s, ok := others[i][c]; ok {
				text = number(s.median, b.digits)
			}
			fmt.Fprintf(w, " %s |", text)
		}
		if base >= 0 {
			fmt.Fprintf(w, " %s |", quotient(samples, t.metric, c, order[base]))
		}
		fmt.Fprintf(w, " %s |\n", quotient(samples, t.metric, c, cell{rival, c.network}))
	}
	fmt.Fprintln(w)
}

// quotient compares a cell: the quotient of the medians, and the range of the
// quotients of each round.
func quotient(samples []sample, metric string, of, to cell) string {
	r, ok := compare(samples, metric, of, to)
	switch {
	case !ok:
		return "—"
	case of == to:
		return "1"
	case r.min == r.max:
		return number(r.median, 2)
	}
	return fmt.Sprintf("%s (%s–%s)", number(r.median, 2), number(r.min, 2), number(r.max, 2))
}

func number(v float64, digits int) string { return strconv.FormatFloat(v, 'f', digits, 64) }

// unitOf returns the unit of a metric.
func unitOf(metric string) string {
	for _, t := range tables {
		if t.metric == metric {
			return t.unit
		}
		for _, b := range t.more {
			if b.metric == metric {
				return b.unit
			}
		}
	}
	return ""
}

// writeCSV writes every sample.
func writeCSV(w io.Writer, samples []sample) error {
	out := csv.NewWriter(w)
	out.Write([]string{"round", "metric", "network", "stack", "value", "unit"})
	for _, s := range samples {
		out.Write([]string{strconv.Itoa(s.round), s.metric, s.network, s.contestant,
			strconv.FormatFloat(s.value, 'g', 6, 64), unitOf(s.metric)})
	}
	out.Flush()
	return out.Error()
}
