"""Where bytes rest: the spool on this host, and the bucket."""
