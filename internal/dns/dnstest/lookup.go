package dnstest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// A Lookuper has the lookups of net.Resolver.
type Lookuper interface {
	LookupAddr(ctx context.Context, addr string) ([]string, error)
	LookupCNAME(ctx context.Context, host string) (string, error)
	LookupHost(ctx context.Context, host string) ([]string, error)
	LookupIP(ctx context.Context, network, host string) ([]net.IP, error)
	LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error)
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	LookupNS(ctx context.Context, name string) ([]*net.NS, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
	LookupTXT(ctx context.Context, name string) ([]string, error)
}

// Call makes a lookup such as "MX example.", and returns its result as text. What has no
// order is sorted.
func Call(ctx context.Context, l Lookuper, line string) (string, error) {
	typ, name, _ := strings.Cut(line, " ")
	texts := func(list []string, err error) (string, error) { return strings.Join(list, ", "), err }
	switch typ {
	case "addr":
		return texts(l.LookupAddr(ctx, name))
	case "cname":
		return l.LookupCNAME(ctx, name)
	case "host":
		list, err := l.LookupHost(ctx, name)
		slices.Sort(list)
		return texts(list, err)
	case "ip", "ip4", "ip6":
		list, err := l.LookupIP(ctx, typ, name)
		again, err2 := l.LookupNetIP(ctx, typ, name)
		text := textOf(list, net.IP.String)
		text2 := textOf(again, func(a netip.Addr) string { return a.Unmap().String() })
		slices.Sort(text)
		slices.Sort(text2)
		if !slices.Equal(text, text2) || fmt.Sprint(err) != fmt.Sprint(err2) {
			return "", fmt.Errorf("LookupIP and LookupNetIP differ: %q, %v; %q, %v", text, err, text2, err2)
		}
		return texts(text, err)
	case "ipaddr":
		list, err := l.LookupIPAddr(ctx, name)
		text := textOf(list, func(a net.IPAddr) string { return a.String() })
		slices.Sort(text)
		return texts(text, err)
	case "mx":
		list, err := l.LookupMX(ctx, name)
		return texts(textOf(list, func(mx *net.MX) string { return fmt.Sprint(mx.Pref, " ", mx.Host) }), err)
	case "ns":
		list, err := l.LookupNS(ctx, name)
		return texts(textOf(list, func(ns *net.NS) string { return ns.Host }), err)
	case "srv":
		var service, proto string
		if f := strings.Fields(name); len(f) == 3 {
			service, proto, name = f[0], f[1], f[2]
		}
		cname, list, err := l.LookupSRV(ctx, service, proto, name)
		text, err := texts(textOf(list, func(s *net.SRV) string { return fmt.Sprint(s.Priority, " ", s.Weight, " ", s.Port, " ", s.Target) }), err)
		return strings.TrimPrefix(cname+": "+text, ": "), err
	case "txt":
		return texts(l.LookupTXT(ctx, name))
	}
	return "", errors.New("no such call")
}

// textOf returns what f makes of each element.
func textOf[T any](list []T, f func(T) string) []string {
	var texts []string
	for _, x := range list {
		texts = append(texts, f(x))
	}
	return texts
}

// Essence returns what an error of a lookup says, whatever made it: the text, the name and
// the flags. The servers that a resolver of package net names are not those of its Dial
// function.
func Essence(err error) string {
	e, ok := errors.AsType[*net.DNSError](err)
	if !ok {
		return fmt.Sprint(err)
	}
	text, _, _ := strings.Cut(e.Err, " (asked ")
	return fmt.Sprintf("%q, name %q, not found %v, timeout %v", text, e.Name, e.IsNotFound, e.IsTimeout)
}
