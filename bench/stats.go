package main

import (
	"slices"
	"time"
)

// A cell is a contestant on a network.
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

// summarize returns the summaries of a metric by cell, and the cells in the order of
// their first samples.
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

// compare summarizes the quotients of the values of two cells: the quotient of their
// medians, and the least and the greatest quotient of one round. It reports false if a
// cell has no value.
func compare(samples []sample, metric string, of, to cell) (summary, bool) {
	_, by := summarize(samples, metric)
	a, b := by[of], by[to]
	if b.median == 0 || a.median == 0 {
		return summary{}, false
	}
	rounds := make(map[int][2]float64)
	for _, s := range samples {
		pair := rounds[s.round]
		switch {
		case s.metric != metric:
			continue
		case s.cell == of && s.cell == to:
			pair = [2]float64{s.value, s.value}
		case s.cell == of:
			pair[0] = s.value
		case s.cell == to:
			pair[1] = s.value
		}
		rounds[s.round] = pair
	}
	r := summary{median: a.median / b.median}
	r.min, r.max = r.median, r.median
	for _, pair := range rounds {
		if pair[0] != 0 && pair[1] != 0 {
			r.min, r.max = min(r.min, pair[0]/pair[1]), max(r.max, pair[0]/pair[1])
		}
	}
	return r, true
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

// medianOf is the median of a worker's nanoseconds, in a unit.
func medianOf(ns []int64, unit time.Duration) float64 {
	v := make([]float64, len(ns))
	for i, n := range ns {
		v[i] = float64(n) / float64(unit)
	}
	return median(v)
}

// quantile is the value below which a part of a worker's nanoseconds lies, in a
// unit.
func quantile(ns []int64, part float64, unit time.Duration) float64 {
	if len(ns) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(ns))
	return float64(v[min(len(v)-1, int(part*float64(len(v))))]) / float64(unit)
}
