// Package dial keeps connections to the outside from leading inside: it refuses addresses that are not of the public network. It
// connects to nothing itself, and knows nothing of what is sent.
package dial

import (
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

// Guard is a net.Dialer's Control that refuses addresses that are neither public nor allowed, after names were resolved and for every
// address that is tried, so that no name can point inside. The error names the key of the configuration that allows them.
func Guard(allowed []netip.Prefix, key string) func(network, address string, _ syscall.RawConn) error {
	return func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("refuse to connect: %w", err)
		}
		ip := at.Addr().Unmap()
		if slices.ContainsFunc(allowed, func(p netip.Prefix) bool { return p.Contains(ip) }) || public(ip) {
			return nil
		}
		return fmt.Errorf("refuse to connect to %s: it is not a public address, and in none of %s", ip, key)
	}
}

// reserved are networks that are global unicast by their form and not by their use (RFC 6890 and the IANA registries): among them
// shared, benchmark and documentation space, and those that carry an IPv4 address inside, which could be a private one.
var reserved = prefixes(
	"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
	"::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fec0::/10",
)

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

// public reports whether an address is of the public network. Metadata services are at link-local and unique local addresses.
func public(ip netip.Addr) bool {
	return ip.IsGlobalUnicast() && !ip.IsPrivate() && ip.Zone() == "" &&
		!slices.ContainsFunc(reserved, func(p netip.Prefix) bool { return p.Contains(ip) })
}
