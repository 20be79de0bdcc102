// Fairness measures what is left of a network of a process beside a flood of
// broadcasts on another network of the process: the throughput of TCP and the round
// trip of a byte. It compares that with what is left beside a process that only burns
// as much processor time as the flood takes where it is alone; or, where stacks of
// this process flood, beside as many of its goroutines that never wait.
//
//	go run ./bench/fairness
//
// Each round measures everything once, one after the other; the medians of all
// rounds are printed, with the part of what was measured beside the burning.
package main
