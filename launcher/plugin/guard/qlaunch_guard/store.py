"""Keeps PyTorch's rendezvous on this machine: its `TCPStore` listens on every address by itself.

It has no key, and keeps whatever anybody sends: from the network the scheduler's memory could be
filled. Where the address that it is made for is a loopback one, nobody elsewhere needs it.
"""

import ipaddress
import socket


def keep_local(module):
    """Have `torch.distributed.rendezvous` make its stores on loopback, where they are for it."""
    original = module.TCPStore

    def make(*args, **kwargs):
        listening = None
        if not args and kwargs.get("is_master") and kwargs.get("master_listen_fd") is None:
            listening = _listen(kwargs["host_name"], kwargs["port"])
        if listening is None:
            return original(*args, **kwargs)
        try:
            # The store closes it.
            return original(**kwargs, master_listen_fd=listening.detach())
        finally:
            listening.close()

    module.TCPStore = make


def _listen(host, port):
    """A socket on a loopback address; None where `host` is another, or the port is taken.

    One process may make several stores on one port: PyTorch then shares the first.
    """
    address = _loopback(host)
    if address is None:
        return None
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((str(address), port))
        listening.listen()
    except OSError:
        listening.close()
        return None
    return listening


def _loopback(host):
    text = "127.0.0.1" if host == "localhost" else str(host).strip("[]")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return address if address.is_loopback else None
