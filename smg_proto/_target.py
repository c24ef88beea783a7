"""Whether a gRPC target is this machine."""

import ipaddress


def is_loopback(target: str) -> bool:
    """Whether data for the target stays on this machine; not for "localhost.example.org"."""
    scheme, _, rest = target.partition(":")
    if scheme in ("unix", "unix-abstract"):
        return True
    if scheme in ("ipv4", "ipv6"):
        return all(is_loopback(one) for one in rest.split(","))
    if scheme == "dns":  # the DNS server in //SERVER/NAME may resolve "localhost" differently
        target = rest.removeprefix("///")
    host = target
    if target.startswith("["):
        host, _, port = target[1:].partition("]")
        if port and not port.startswith(":"):
            return False
    elif target.count(":") == 1:
        host = target.partition(":")[0]
    if host.lower() == "localhost":
        return True
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback
