// Package neigh keeps the neighbours of stacks from filling the kernel's table.
//
// The kernel has one table of neighbours for IPv4 and one for IPv6, for all
// namespaces of the machine, each with room for 1024 entries
// (net.ipv4.neigh.default.gc_thresh3), which only the host can change. Where all
// stacks of a network talk to each other there is an entry for each pair and
// direction: 33 stacks fill the table, for the host too. Entries that are marked as
// learnt from outside (NTF_EXT_LEARNED) do not count. So the kernel finds neighbours
// by ARP and neighbour discovery as always, and this package marks what it has
// found, once it is more than a few. Nothing waits for that, and the kernel confirms,
// changes and loses the entries as it does others.
//
// Where there are so many on a network that questions are a burden, Introduce spares
// them: two whose addresses the process knows learn of each other, marked.
//
// The kernel never removes marked entries because they are not used. This package does,
// where there are many.
//
// One socket and one goroutine hear of all namespaces that one helper enters. The
// socket is in the helper's home, where the namespaces have numbers
// (NETLINK_LISTEN_ALL_NSID), and a filter leaves new entries of all that the kernel
// reports: a program at rest is not woken. A socket for each namespace would cost a
// descriptor, and the kernel would offer each of its reports to all of them.
package neigh
