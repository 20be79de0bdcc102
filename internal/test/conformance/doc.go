// Package conformance has tests only. They run standard code in stacks as programs do, many
// connections and many stacks at once, and check every byte.
//
// Whatever package net/http, crypto/tls, net/rpc, net/smtp or a program with a
// [net.UDPConn] does on the host must work in a stack unchanged. The tests run over an
// Ethernet between two stacks, over loopback inside one stack, and for comparison over
// loopback of the host. Each test also checks that it leaves no goroutines and descriptors
// behind, and that no thread of the process ever leaves its namespaces.
package conformance
