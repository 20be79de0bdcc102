package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"strings"
)

// panels are the columns of bars of the chart; the first one decides its rows.
var panels = []struct {
	metric, title, unit string
	digits              int
}{
	{"stream1", "TCP, one stream", "Gbit/s, more is better", 2},
	{"stream1_cpu_machine", "CPU of the machine", "s/GB, less is better", 2},
	{"rtt", "Round trip on one CPU", "µs, less is better", 1},
}

// colours of the contestants.
var colours = map[string]string{
	ours: "#1668a7", rival: "#d97b1e", gvisor: "#7d5ba6", kernel: "#6b7280", oursApart: "#3f8fcf", kernelApart: "#9aa0aa", oursTUN: "#1b7f8c", netstack: "#b0568f", oursToRival: "#3d9970", rivalToOurs: "#6aa886",
}

// Sizes of the chart, in pixels.
const (
	margin     = 20
	nameWidth  = 82  // of a network
	stackWidth = 158 // of a contestant
	panelWidth = 268
	barWidth   = 206 // of the longest bar, which leaves room for its value
	rowHeight  = 19
	barHeight  = 12
	groupGap   = 5 // between networks
	headHeight = 80
)

// chart draws the panels as an SVG picture. Bars are medians, and the line on each
// spans the rounds.
func chart(samples []sample, machine string) []byte {
	var rows bytes.Buffer
	order, _ := summarize(samples, panels[0].metric)
	y := headHeight
	for i, p := range panels {
		left := margin + nameWidth + stackWidth + i*panelWidth
		text(&rows, left, headHeight-26, `font-weight="bold"`, p.title)
		text(&rows, left, headHeight-12, `font-size="11" fill="#666"`, p.unit)
		_, by := summarize(samples, p.metric)
		var longest float64
		for _, s := range by {
			longest = max(longest, s.max)
		}
		y = headHeight
		for j, c := range order {
			first := j == 0 || order[j-1].network != c.network
			if first && j > 0 {
				y += groupGap
			}
			if first && i == 0 {
				text(&rows, margin, y+barHeight-2, `font-weight="bold"`, c.network)
			}
			if i == 0 {
				text(&rows, margin+nameWidth, y+barHeight-2, fmt.Sprintf(`fill="%s"`, colours[c.contestant]), c.contestant)
			}
			if s, ok := by[c]; ok && longest > 0 {
				x := func(v float64) float64 { return v / longest * barWidth }
				fmt.Fprintf(&rows, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", left, y, max(1, x(s.median)), barHeight, colours[c.contestant])
				fmt.Fprintf(&rows, `<path d="M%.1f %dH%.1f" stroke="#111" stroke-width="1.2"/>`+"\n", float64(left)+x(s.min), y+barHeight/2, float64(left)+x(s.max))
				text(&rows, left+int(x(s.max))+4, y+barHeight-2, `font-size="11"`, number(s.median, p.digits))
			}
			y += rowHeight
		}
	}
	width, height := margin+nameWidth+stackWidth+len(panels)*panelWidth+margin, y+margin
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="12" fill="#222">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	text(&b, margin, 24, `font-size="16" font-weight="bold"`, "Two stacks on one network, MTU 1500")
	text(&b, margin, 40, `font-size="11" fill="#666"`, machine+". Bars: median of all rounds; thin lines: least to greatest.")
	b.Write(rows.Bytes())
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// text writes a line of text.
func text(b *bytes.Buffer, x, y int, attributes, content string) {
	var escaped strings.Builder
	xml.EscapeText(&escaped, []byte(content))
	fmt.Fprintf(b, `<text x="%d" y="%d" %s>%s</text>`+"\n", x, y, attributes, escaped.String())
}
