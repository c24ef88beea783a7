"""Targets of gRPC that are on this machine, and others that look like it."""

# fmt: off
LOOPBACK = [
    "localhost:1", "LOCALHOST:1", "127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1",
    "dns:localhost:1", "dns:///127.0.0.1:1", "ipv4:127.0.0.1:1", "ipv6:[::1]:1", "unix:/tmp/s",
    "unix-abstract:s",
]
ELSEWHERE = [
    "localhost.evil.example:1", "127.evil.example:1", "localhost-proxy.corp:1", "10.0.0.1:1",
    "127.0.0.1.evil.example:1", "[::2]:1", "0.0.0.0:1", "example.com:1", "evil?localhost:1",
    "dns:///localhost.evil:1", "dns://8.8.8.8/localhost:1", "dns:evil:1", "xds:localhost:1",
    "ipv4:127.0.0.1:1,10.0.0.1:1", "ipv6:[::1]:1,[::2]:1", "[::1].evil:1", "[::1]x:1",
]
# fmt: on
