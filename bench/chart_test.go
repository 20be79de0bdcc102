package main

import (
	"bytes"
	"encoding/xml"
	"io"
	"strings"
	"testing"
)

// TestChart checks that the chart is well-formed and has a bar for each value.
func TestChart(t *testing.T) {
	samples := []sample{
		{1, kernelVeth, "stream1", 44}, {1, kernelVeth, "stream1_cpu_machine", 0.25}, {1, kernelVeth, "rtt", 14.5},
		{1, onMem, "stream1", 0.2}, {2, onMem, "stream1", 20}, {1, rivalPTP, "stream1", 1.1}, {1, rivalPTP, "rtt", 45.7},
		{1, cell{oursToRival, "ptp"}, "stream1", 1.3},
	}
	for _, tt := range []struct {
		name    string
		samples []sample
		bars    int
	}{
		{name: "full", samples: samples, bars: 7}, // of 4, 1 and 2
		{name: "one", samples: samples[:1], bars: 1},
		{name: "empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			svg := chart(tt.samples, `a "machine" <&>`)
			bars := 0
			for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
				token, err := d.Token()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatalf("%v in\n%s", err, svg)
				}
				if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
					bars++
				}
			}
			if bars--; bars != tt.bars { // without the background
				t.Errorf("%d bars, want %d, in\n%s", bars, tt.bars, svg)
			}
			if text := string(svg); strings.Contains(text, "NaN") || strings.Contains(text, "Inf") || strings.Contains(text, "%!") {
				t.Errorf("not a number, or not a format, in\n%s", svg)
			}
		})
	}
}
