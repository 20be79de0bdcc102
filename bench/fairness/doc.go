// Fairness measures how much a flood of broadcasts on one network of a process slows down
// another network of the process: the throughput of TCP and the round trip of a byte.
// Because the flood also uses processors, it is compared with
//
//   - a process that only burns as much processor time as the flood takes alone, or,
//   - where stacks of this process flood, as many of its goroutines that never wait.
//
// Run it with
//
//	go run ./bench/fairness
//
// Each round measures everything once, one after the other. It prints the medians of all
// rounds, and which part of the throughput during the burning is left during the flood.
package main
