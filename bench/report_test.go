package main

import (
	"strings"
	"testing"
)

var reported = []sample{
	{1, cell{"vdestack", "ptp"}, "throughput", 3}, {1, cell{"vdestack", "ptp"}, "cpu_processes", 2}, {1, cell{"vdestack", "ptp"}, "cpu_machine", 5},
	{1, cell{"libvdestack", "ptp"}, "throughput", 2}, {1, cell{"libvdestack", "ptp"}, "cpu_processes", 4},
	{1, cell{"kernel", "veth"}, "throughput", 12}, {1, cell{"kernel", "veth"}, "cpu_processes", 0.5},
	{1, cell{"vdestack", "mem"}, "open", 1.25},
}

func TestWriteTables(t *testing.T) {
	var got strings.Builder
	writeTables(&got, reported)
	for _, want := range []string{
		"| network | stack | median Gbit/s | min | max | CPU s/GB of its processes | CPU s/GB of the machine | ÷ kernel | ÷ libvdestack |\n" +
			"|---|---|---:|---:|---:|---:|---:|---:|---:|\n" +
			"| ptp | vdestack | 3.00 | 3.00 | 3.00 | 2.00 | 5.00 | 0.25 | 1.50 |\n" +
			"| ptp | libvdestack | 2.00 | 2.00 | 2.00 | 4.00 | 0.00 | 0.17 | 1.00 |\n" +
			"| veth | kernel | 12.00 | 12.00 | 12.00 | 0.50 | 0.00 | 1.00 | — |\n",
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
	want := "round,metric,network,stack,value,unit\n1,throughput,ptp,vdestack,3,Gbit/s\n1,cpu_processes,ptp,vdestack,2,CPU s/GB of its processes\n" +
		"1,cpu_machine,ptp,vdestack,5,CPU s/GB of the machine\n"
	if got.String() != want {
		t.Errorf("got %q, want %q", got.String(), want)
	}
}
