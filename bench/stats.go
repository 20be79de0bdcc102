package main

import (
	"slices"
	"strconv"
	"time"
)

// A cell is what takes its turn: a contestant on a network.
type cell struct {
	contestant, network string
}

func (c cell) String() string { return c.contestant + "/" + c.network }

// A sample is one measured value.
type sample struct {
	round int
	cell
	metric string
	value  float64
}

// A summary describes the values of a cell's metric, one a round.
type summary struct {
	median, min, max float64
}

// summarize returns the summaries of a metric by cell, and the cells in the
// order of their first sample.
func summarize(samples []sample, metric string) (order []cell, by map[cell]summary) {
	values := make(map[cell][]float64)
	for _, s := range samples {
		if s.metric != metric {
			continue
		}
		if values[s.cell] == nil {
			order = append(order, s.cell)
		}
		values[s.cell] = append(values[s.cell], s.value)
	}
	by = make(map[cell]summary)
	for c, v := range values {
		by[c] = summary{median(v), slices.Min(v), slices.Max(v)}
	}
	return order, by
}

// median returns the middle of the values, or the mean of the two in the
// middle; 0 if there are none.
func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	switch {
	case n == 0:
		return 0
	case n%2 == 1:
		return v[n/2]
	}
	return (v[n/2-1] + v[n/2]) / 2
}

// ratio returns the quotient of two medians as a text, a dash if there is none.
func ratio(a float64, b summary, ok bool) string {
	if !ok || b.median == 0 {
		return "—"
	}
	return strconv.FormatFloat(a/b.median, 'f', 2, 64)
}

// medianOf is the median of a worker's nanoseconds, in a unit.
func medianOf(ns []int64, unit time.Duration) float64 {
	v := make([]float64, len(ns))
	for i, n := range ns {
		v[i] = float64(n) / float64(unit)
	}
	return median(v)
}
