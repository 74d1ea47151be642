"""Where entries are kept: on this machine's disk, in Redis or Valkey, in Memcached."""
