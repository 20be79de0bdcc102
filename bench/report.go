package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
)

const (
	baseline = "kernel"      // the contestant that is compared with wherever it takes part
	rival    = "libvdestack" // the contestant that is compared with on the same network
)

// A table presents one metric.
type table struct {
	metric, unit, title string
	digits              int
	// beside are other metrics of the same cells, in columns of their own.
	beside []column
}

// A column presents the median of a metric.
type column struct {
	metric, unit string
}

// tables are the metrics in the order of the report.
var tables = []table{
	{metric: "throughput", unit: "Gbit/s", digits: 2,
		beside: []column{{"cpu_processes", "CPU s/GB of its processes"}, {"cpu_machine", "CPU s/GB of the machine"}},
		title:  "TCP throughput, one stream, 128 KiB writes, MTU 1500 (more is better)"},
	{metric: "rtt", unit: "µs", digits: 1, title: "TCP round trip of 64 bytes, p50 (less is better)"},
	{metric: "open", unit: "ms", digits: 3, title: "Time to make a stack and its first socket (less is better)"},
	{metric: "close", unit: "ms", digits: 3, title: "Time to close a stack (less is better)"},
	{metric: "sockets1", unit: "1000/s", digits: 1, title: "Sockets made and closed, 1 goroutine or thread (more is better)"},
	{metric: "sockets8", unit: "1000/s", digits: 1, title: "Sockets made and closed, 8 goroutines or threads (more is better)"},
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
	var base summary
	hasBase := false
	for _, c := range order {
		if c.contestant == baseline {
			base, hasBase = by[c], true
		}
	}
	fmt.Fprintf(w, "### %s\n\n| network | stack | median %s | min | max |", t.title, t.unit)
	rule := "|---|---|---:|---:|---:|"
	head := func(name string) {
		fmt.Fprintf(w, " %s |", name)
		rule += "---:|"
	}
	beside := make([]map[cell]summary, len(t.beside))
	for i, b := range t.beside {
		head(b.unit)
		_, beside[i] = summarize(samples, b.metric)
	}
	if hasBase {
		head("÷ " + baseline)
	}
	head("÷ " + rival)
	fmt.Fprintf(w, "\n%s\n", rule)

	number := func(v float64) string { return strconv.FormatFloat(v, 'f', t.digits, 64) }
	for _, c := range order {
		s := by[c]
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s |", c.network, c.contestant, number(s.median), number(s.min), number(s.max))
		for _, b := range beside {
			fmt.Fprintf(w, " %s |", strconv.FormatFloat(b[c].median, 'f', 2, 64))
		}
		if hasBase {
			fmt.Fprintf(w, " %s |", ratio(s.median, base, true))
		}
		other, ok := by[cell{rival, c.network}]
		fmt.Fprintf(w, " %s |\n", ratio(s.median, other, ok))
	}
	fmt.Fprintln(w)
}

// unitOf returns the unit of a metric.
func unitOf(metric string) string {
	for _, t := range tables {
		if t.metric == metric {
			return t.unit
		}
		for _, b := range t.beside {
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
