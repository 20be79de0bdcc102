package main

import (
	"slices"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	tests := []struct {
		name string
		in   []float64
		want float64
	}{
		{name: "none"},
		{name: "one", in: []float64{3}, want: 3},
		{name: "odd", in: []float64{9, 1, 5}, want: 5},
		{name: "even", in: []float64{8, 1, 2, 4}, want: 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := slices.Clone(tt.in)
			if got := median(tt.in); got != tt.want {
				t.Errorf("median(%v) = %v, want %v", tt.in, got, tt.want)
			}
			if !slices.Equal(tt.in, before) {
				t.Errorf("median changed its argument to %v", tt.in)
			}
		})
	}
	if got := medianOf([]int64{1500, 500, 4000}, time.Microsecond); got != 1.5 {
		t.Errorf("medianOf = %v, want 1.5", got)
	}
}

func TestSummarize(t *testing.T) {
	a, b := cell{"vdestack", "mem"}, cell{"kernel", "veth"}
	order, by := summarize([]sample{
		{1, a, "rtt", 3}, {1, b, "rtt", 30}, {1, a, "throughput", 99},
		{2, a, "rtt", 1}, {2, b, "rtt", 10}, {3, a, "rtt", 2},
	}, "rtt")
	if want := []cell{a, b}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	for c, want := range map[cell]summary{a: {2, 1, 3}, b: {20, 10, 30}} {
		if got := by[c]; got != want {
			t.Errorf("%v: %v, want %v", c, got, want)
		}
	}
}

func TestCompare(t *testing.T) {
	a, b := cell{"vdestack", "ptp"}, cell{"libvdestack", "ptp"}
	samples := []sample{
		{1, a, "rtt", 10}, {1, b, "rtt", 20}, {1, a, "open", 7},
		{2, b, "rtt", 10}, {2, a, "rtt", 20},
		{3, a, "rtt", 60}, // the other one was left out
	}
	tests := []struct {
		name   string
		metric string
		of, to cell
		want   summary
		ok     bool
	}{
		{name: "quotient of medians, range of rounds", metric: "rtt", of: a, to: b, want: summary{20.0 / 15, 0.5, 2}, ok: true},
		{name: "itself", metric: "rtt", of: a, to: a, want: summary{1, 1, 1}, ok: true},
		{name: "missing", metric: "open", of: a, to: b},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, ok := compare(samples, tt.metric, tt.of, tt.to); got != tt.want || ok != tt.ok {
				t.Errorf("got %v, %v, want %v, %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}

func TestQuantile(t *testing.T) {
	ns := []int64{5000, 1000, 4000, 3000, 2000}
	for _, tt := range []struct{ part, want float64 }{{0, 1}, {0.5, 3}, {0.9, 5}, {1, 5}} {
		if got := quantile(ns, tt.part, time.Microsecond); got != tt.want {
			t.Errorf("quantile(%v) = %v, want %v", tt.part, got, tt.want)
		}
	}
	if got := quantile(nil, 0.5, time.Microsecond); got != 0 {
		t.Errorf("of no values: %v, want 0", got)
	}
}
