// Package sockio moves frames and packets over local sockets and UDP: descriptors in
// the runtime's poller, a frame in each datagram or a GSO packet in each message, and
// UDP with segmentation offload. It also has the locks, permissions and owners of socket
// files. Most of it is for Linux.
package sockio
