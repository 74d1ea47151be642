"""What lies between us and an address: proxies, why a fetch failed, and asking."""
