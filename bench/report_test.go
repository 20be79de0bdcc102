package main

import (
	"strings"
	"testing"
)

var reported = []sample{
	{1, cell{"vdestack", "ptp"}, "stream1", 3}, {1, cell{"vdestack", "ptp"}, "stream1_cpu_machine", 5}, {1, cell{"vdestack", "ptp"}, "stream1_cpu_processes", 2},
	{1, cell{"libvdestack", "ptp"}, "stream1", 2}, {1, cell{"libvdestack", "ptp"}, "stream1_cpu_processes", 4},
	{1, cell{"kernel", "veth"}, "stream1", 12}, {1, cell{"kernel", "veth"}, "stream1_cpu_processes", 0.5},
	{1, cell{"kernel", "veth-plain"}, "stream1", 6},
	{1, cell{"vdestack", "mem"}, "open", 1.25},
	{2, cell{"vdestack", "ptp"}, "stream1", 3}, {2, cell{"libvdestack", "ptp"}, "stream1", 1},
}

func TestWriteTables(t *testing.T) {
	var got strings.Builder
	writeTables(&got, reported)
	for _, want := range []string{
		"| network | stack | median Gbit/s | min | max | CPU s/GB of the machine | CPU s/GB of its processes | ÷ veth | ÷ libvdestack |\n" +
			"|---|---|---:|---:|---:|---:|---:|---:|---:|\n" +
			"| ptp | vdestack | 3.00 | 3.00 | 3.00 | 5.00 | 2.00 | 0.25 | 2.00 (1.50–3.00) |\n" +
			"| ptp | libvdestack | 1.50 | 1.00 | 2.00 | — | 4.00 | 0.12 (0.12–0.17) | 1 |\n" +
			"| veth | kernel | 12.00 | 12.00 | 12.00 | — | 0.50 | 1 | — |\n" +
			"| veth-plain | kernel | 6.00 | 6.00 | 6.00 | — | — | 0.50 | — |\n",
		"| network | stack | median ms | min | max | ÷ libvdestack |\n" +
			"|---|---|---:|---:|---:|---:|\n" +
			"| mem | vdestack | 1.250 | 1.250 | 1.250 | — |\n",
	} {
		if !strings.Contains(got.String(), want) {
			t.Errorf("got\n%s\nwant in it\n%s", got.String(), want)
		}
	}
	if strings.Contains(got.String(), "round trip") {
		t.Error("a table without samples is there")
	}
}

func TestWriteCSV(t *testing.T) {
	var got strings.Builder
	if err := writeCSV(&got, reported[:3]); err != nil {
		t.Fatal(err)
	}
	want := "round,metric,network,stack,value,unit\n1,stream1,ptp,vdestack,3,Gbit/s\n1,stream1_cpu_machine,ptp,vdestack,5,s/GB\n" +
		"1,stream1_cpu_processes,ptp,vdestack,2,s/GB\n"
	if got.String() != want {
		t.Errorf("got %q, want %q", got.String(), want)
	}
}
