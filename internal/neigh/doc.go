// Package neigh keeps the neighbours of stacks from filling the kernel's table.
//
//   - The kernel has one table of neighbours for IPv4 and one for IPv6, for all
//     namespaces of the machine, each with room for 1024 entries
//     (net.ipv4.neigh.default.gc_thresh3), which only the host can change. If all
//     stacks of a network talk to each other, there is an entry for each pair and
//     direction: 33 stacks fill the table, for the host too.
//   - Entries that are marked as learnt from outside (NTF_EXT_LEARNED) do not count. So
//     the kernel finds neighbours by ARP and neighbour discovery as always, and this
//     package marks them, once there are more than a few. Nothing waits for that, and
//     the kernel confirms, changes and loses the entries like others.
//   - On a network that is so crowded that questions are a burden, Introduce avoids
//     them: two stacks whose addresses the process knows learn of each other, marked.
//   - The kernel never removes marked entries that are not used. This package does, if
//     there are many.
//
// One socket and one goroutine hear of all namespaces that one helper enters. The
// socket is in the helper's base, where the namespaces have numbers
// (NETLINK_LISTEN_ALL_NSID), and a filter passes only new entries: a program at rest is
// not woken. A socket for each namespace would take a descriptor, and the kernel would
// offer each report to all of them.
package neigh
