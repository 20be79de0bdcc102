package main

import (
	"fmt"

	"github.com/vdestack/vdestack/slirp"
	"github.com/vdestack/vdestack/vdeplug"
)

// configureSlirp configures interfaces on slirp:// where the command line does not. The
// network has one guest, so DHCP is not needed, unless -conf asks for it.
func (o *options) configureSlirp() error {
	for i := range o.interfaces {
		ifc := &o.interfaces[i]
		l, err := vdeplug.Parse(ifc.VNL)
		if err != nil || l.Scheme() != "slirp" || len(ifc.Addrs) > 0 || o.configures(ifc.Name) {
			continue // Open returns the error
		}
		guest, err := slirp.FirstGuest(l)
		if err != nil {
			return fmt.Errorf("%s: %w", vdeplug.Redact(ifc.VNL), err)
		}
		ifc.Addrs = guest.Addrs
		if len(ifc.Gateways) == 0 {
			ifc.Gateways = guest.Gateways
		}
		if o.names && o.dns == nil && o.resolvConf == "" {
			o.dns = guest.DNS
		}
	}
	return nil
}
