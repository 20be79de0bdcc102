// Package dnstest has the answers of a DNS server, and calls of lookups.
package dnstest

import (
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"
)

// Answer returns the answer to a query; nil if it is not a query. Records returns the
// addresses and texts of a name, nil if it does not exist.
func Answer(query []byte, records func(name string) []string) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) == 0 {
		return nil
	}
	q := m.Questions[0]
	list := records(q.Name.String())
	m = dnsmessage.Message{
		Header:    dnsmessage.Header{ID: m.ID, Response: true, RecursionDesired: true, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q},
	}
	if list == nil {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, r := range list {
		ip, err := netip.ParseAddr(r)
		var body dnsmessage.ResourceBody
		switch {
		case q.Type == dnsmessage.TypeA && ip.Is4():
			body = &dnsmessage.AResource{A: ip.As4()}
		case q.Type == dnsmessage.TypeAAAA && ip.Is6():
			body = &dnsmessage.AAAAResource{AAAA: ip.As16()}
		case q.Type == dnsmessage.TypeTXT && err != nil:
			body = &dnsmessage.TXTResource{TXT: []string{r}}
		default:
			continue
		}
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60}, Body: body,
		})
	}
	msg, _ := m.Pack()
	return msg
}
