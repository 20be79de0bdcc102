// Package wireguard reads the configuration of WireGuard tunnels, as files of wg-quick(8) and as
// a [Config]. Keys do not reach logs and errors by accident, see [Key].
package wireguard
