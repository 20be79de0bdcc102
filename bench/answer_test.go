package main

import (
	"slices"
	"testing"
)

func TestParseAnswer(t *testing.T) {
	tests := []struct {
		name, in string
		want     []int64
		err      string
	}{
		{name: "values", in: "ok\t12\t0", want: []int64{12, 0}},
		{name: "none", in: "ok"},
		{name: "error", in: "error\tno such network", err: "rtt: no such network"},
		{name: "empty", in: "", err: "rtt: "},
		{name: "few", in: "ok\t1", want: []int64{1, 2}, err: "rtt: the answer has 1 values, not 2"},
		{name: "negative", in: "ok\t-1", want: []int64{1}, err: `rtt: the answer has "-1" for a number`},
		{name: "text", in: "ok\tx", want: []int64{1}, err: `rtt: the answer has "x" for a number`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseAnswer("rtt", tt.in, len(tt.want))
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Fatalf("parseAnswer(%q) = %v, want the error %q", tt.in, err, tt.err)
				}
				return
			}
			if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("parseAnswer(%q) = %v, %v, want %v", tt.in, got, err, tt.want)
			}
		})
	}
}
