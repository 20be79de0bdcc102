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

func TestRatio(t *testing.T) {
	tests := []struct {
		a    float64
		b    summary
		ok   bool
		want string
	}{
		{3, summary{median: 2}, true, "1.50"},
		{3, summary{}, true, "—"},
		{3, summary{median: 2}, false, "—"},
	}
	for _, tt := range tests {
		if got := ratio(tt.a, tt.b, tt.ok); got != tt.want {
			t.Errorf("ratio(%v, %v, %v) = %q, want %q", tt.a, tt.b, tt.ok, got, tt.want)
		}
	}
}
