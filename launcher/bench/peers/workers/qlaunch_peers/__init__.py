"""Programs that run in a peer's own Python: exports of a checkpoint, and the least of a server.

They import nothing of qlaunch's. Each is started as `python -P -m qlaunch_peers.NAME`, with the
folder above on PYTHONPATH.
"""
