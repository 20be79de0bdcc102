package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/autoconf"
	"github.com/vdestack/vdestack/internal/program"
)

// A conf is an option -conf.
type conf struct {
	autoconf.Config        // of Iface
	option          string // as it was given
}

func (o *options) addConf(text string) error {
	c, err := autoconf.Parse(text)
	if err != nil {
		return err
	}
	o.confs = append(o.confs, conf{c, "-conf " + text})
	return nil
}

// checkConfs gives each -conf its interface: that of its item iface, or the first.
func (o *options) checkConfs() error {
	seen := make(map[string]bool)
	for i := range o.confs {
		c := &o.confs[i]
		switch {
		case len(o.interfaces) == 0:
			return fmt.Errorf("%s: there is no interface without a network", c.option)
		case c.VNL != "":
			return fmt.Errorf("%s: vnl=%s: networks are given as arguments", c.option, c.VNL)
		case c.Index != 0:
			return fmt.Errorf("%s: ifindex=%d: the number is not known yet (iface=%s is a name)", c.option, c.Index, o.interfaces[0].Name)
		case !reflect.DeepEqual(c.Remove, autoconf.Remove{}):
			return fmt.Errorf("%s: items with a minus take back what a stack has, and this one is new", c.option)
		case c.Iface == "":
			c.Iface = o.interfaces[0].Name
		case !slices.ContainsFunc(o.interfaces, func(ifc vdestack.Interface) bool { return ifc.Name == c.Iface }):
			return fmt.Errorf("%s: there is no interface %q, the last is %s", c.option, c.Iface, o.interfaces[len(o.interfaces)-1].Name)
		}
		if seen[c.Iface] {
			return fmt.Errorf("%s: %s has a -conf already (one takes several items: a,b)", c.option, c.Iface)
		}
		seen[c.Iface] = true
	}
	return nil
}

// configures reports whether an interface has a -conf.
func (o *options) configures(iface string) bool {
	return slices.ContainsFunc(o.confs, func(c conf) bool { return c.Iface == iface })
}

// configure configures the interfaces that have a -conf, and keeps them configured for as
// long as the stack lives. Until quiet is called, changes are logged; what was there at the
// beginning is not, unless the item debug asks for everything.
func (o *options) configure(ctx context.Context, s *vdestack.Stack) (quiet func(), err error) {
	var level slog.LevelVar
	level.Set(slog.LevelWarn)
	errs := make([]error, len(o.confs))
	var started sync.WaitGroup
	for i, c := range o.confs {
		c.Logger = program.NewLogger(&level)
		if c.Debug {
			c.Logger = program.NewLogger(slog.LevelDebug)
		}
		started.Go(func() {
			if _, err := autoconf.Start(ctx, s, c.Config); err != nil {
				errs[i] = fmt.Errorf("%s: %w", c.option, err)
			}
		})
	}
	started.Wait()
	level.Set(slog.LevelInfo)
	return func() { level.Set(slog.LevelWarn) }, errors.Join(errs...)
}
