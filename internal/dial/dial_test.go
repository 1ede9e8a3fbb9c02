package dial

import (
	"net"
	"net/netip"
	"testing"
)

func TestGuard(t *testing.T) {
	check := Guard([]netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("::1/128")}, "x.networks")
	for address, want := range map[string]bool{
		"8.8.8.8": true, "2606:4700::1111": true, "10.1.2.3": true, "::1": true, "::ffff:10.1.2.3": true,
		"127.0.0.1": false, "10.2.0.1": false, "172.16.0.1": false, "192.168.1.1": false, "169.254.169.254": false, "0.0.0.0": false, "100.100.100.200": false,
		"255.255.255.255": false, "224.0.0.1": false, "::": false, "::ffff:127.0.0.1": false, "::ffff:169.254.169.254": false, "fe80::1": false, "fe80::1%lo": false, "fd00:ec2::254": false,
		"64:ff9b::7f00:1": false, "2002:7f00:1::": false, "ff02::1": false, "198.18.0.1": false, "fec0::1": false, "2001:0:7f00:1::": false,
		"::7f00:1": false, "::a9fe:a9fe": false, "192.88.99.1": false, "3fff::1": false, "5f00::1": false,
	} {
		if err := check("tcp", net.JoinHostPort(address, "443"), nil); (err == nil) != want {
			t.Errorf("%s: %v, want reachable %v", address, err, want)
		}
	}
	if check("tcp", "name:443", nil) == nil {
		t.Error("a name is connected to")
	}
}
