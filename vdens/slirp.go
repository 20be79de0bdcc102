package main

import (
	"fmt"

	"github.com/vdestack/vdestack/slirp"
	"github.com/vdestack/vdestack/vdeplug"
)

// configureSlirp gives interfaces on slirp:// what the command line does not say: the
// network has one guest, so nobody has to be asked.
func (o *options) configureSlirp() error {
	for i := range o.interfaces {
		ifc := &o.interfaces[i]
		l, err := vdeplug.Parse(ifc.VNL)
		if err != nil || l.Scheme() != "slirp" || len(ifc.Addrs) > 0 {
			continue // an error is Open's to tell
		}
		guest, err := slirp.FirstGuest(l)
		if err != nil {
			return fmt.Errorf("%s: %w", ifc.VNL, err)
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
