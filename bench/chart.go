package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// A panel is a column of bars in the chart.
type panel struct {
	metric, title, unit string
	digits              int
	log                 bool // each step of the axis is ten times the last
}

// panels have the rows of the first one.
var panels = []panel{
	{"stream1", "TCP, one stream", "Gbit/s, more is better", 2, true},
	{"stream1_cpu_machine", "CPU of the machine", "s/GB, less is better", 2, true},
	{"rtt", "Round trip on one CPU", "µs, less is better", 1, false},
}

// colours of the contestants.
var colours = map[string]string{
	ours: "#1668a7", rival: "#d97b1e", gvisor: "#7d5ba6", kernel: "#6b7280", oursToRival: "#3d9970", rivalToOurs: "#6aa886",
}

// Sizes of the chart, in pixels.
const (
	chartMargin = 20
	networkWide = 82  // the column of networks
	stackWide   = 158 // the column of contestants
	panelWide   = 250 // a column of bars
	panelGap    = 18
	valueWide   = 44 // is kept free behind the longest bar
	rowHigh     = 19
	barHigh     = 12
	groupGap    = 5 // between networks
	headHigh    = 92
)

// chart draws the panels as an SVG picture. Bars are medians, and the line on
// each spans the rounds.
func chart(samples []sample, machine string) []byte {
	order, _ := summarize(samples, panels[0].metric)
	tops, bottom := rows(order)
	width := 2*chartMargin + networkWide + stackWide + len(panels)*(panelWide+panelGap)
	height := bottom + 34 + chartMargin
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="12" fill="#222">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	text(&b, chartMargin, 28, `font-size="16" font-weight="bold"`, "Two stacks on one network, MTU 1500")
	text(&b, chartMargin, 46, `font-size="11" fill="#666"`, machine)
	for i, c := range order {
		y := tops[i] + barHigh - 2
		if i == 0 || order[i-1].network != c.network {
			text(&b, chartMargin, y, `font-weight="bold"`, c.network)
		}
		text(&b, chartMargin+networkWide, y, fmt.Sprintf(`fill="%s"`, colours[c.contestant]), c.contestant)
	}
	for i, p := range panels {
		p.draw(&b, samples, order, tops, chartMargin+networkWide+stackWide+i*(panelWide+panelGap), bottom)
	}
	text(&b, chartMargin, height-chartMargin+4, `font-size="11" fill="#666"`, "Bars: median of all rounds; thin lines: least to greatest. Throughput and CPU on logarithmic axes.")
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// rows returns where the rows begin, and where the last one ends.
func rows(order []cell) (tops []int, bottom int) {
	y := headHigh
	for i, c := range order {
		if i > 0 && order[i-1].network != c.network {
			y += groupGap
		}
		tops = append(tops, y)
		y += rowHigh
	}
	return tops, y
}

func (p *panel) draw(b *bytes.Buffer, samples []sample, order []cell, tops []int, left, bottom int) {
	_, by := summarize(samples, p.metric)
	low, high := p.span(by)
	text(b, left, headHigh-26, `font-weight="bold"`, p.title)
	text(b, left, headHigh-12, `font-size="11" fill="#666"`, p.unit)
	if high == 0 {
		return
	}
	// x is where a value is on the axis.
	x := func(v float64) float64 {
		part := v / high
		if p.log {
			part = math.Log(max(v, low)/low) / math.Log(high/low)
		}
		return float64(left) + part*(panelWide-valueWide)
	}
	for _, v := range p.ticks(low, high) {
		fmt.Fprintf(b, `<path d="M%.1f %dV%d" stroke="#ddd"/>`+"\n", x(v), headHigh-5, bottom)
		text(b, int(x(v)), bottom+14, `font-size="10" fill="#666" text-anchor="middle"`, fmt.Sprint(v))
	}
	for i, c := range order {
		s, ok := by[c]
		if !ok {
			continue
		}
		middle := float64(tops[i]) + barHigh/2
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", left, tops[i], max(1, x(s.median)-float64(left)), barHigh, colours[c.contestant])
		if s.min < s.max {
			fmt.Fprintf(b, `<path d="M%.1f %.1fH%.1f" stroke="#111" stroke-width="1.2"/>`+"\n", x(s.min), middle, x(s.max))
		}
		text(b, int(max(x(s.median), x(s.max)))+4, tops[i]+barHigh-2, `font-size="11"`, number(s.median, p.digits))
	}
}

// span returns the ends of the axis.
func (p *panel) span(by map[cell]summary) (low, high float64) {
	low = math.Inf(1)
	for _, s := range by {
		low, high = min(low, s.min), max(high, s.max)
	}
	if !p.log || high == 0 {
		return 0, high
	}
	// The least bar is to be seen too.
	low = math.Pow(10, math.Floor(math.Log10(max(low, high/1e4)*0.8)))
	return low, high
}

// ticks are the values that the axis shows.
func (p *panel) ticks(low, high float64) (list []float64) {
	if p.log {
		for v := low; v <= high; v *= 10 {
			list = append(list, math.Round(v*1e4)/1e4)
		}
		return list
	}
	step := math.Pow(10, math.Floor(math.Log10(high)))
	for high/step < 3 {
		step /= 2
	}
	for v := 0.0; v <= high; v += step {
		list = append(list, v)
	}
	return list
}

// text writes a line of text.
func text(b *bytes.Buffer, x, y int, attributes, content string) {
	var escaped strings.Builder
	xml.EscapeText(&escaped, []byte(content))
	fmt.Fprintf(b, `<text x="%d" y="%d" %s>%s</text>`+"\n", x, y, attributes, escaped.String())
}
