"""How a file comes in: a request is read into the spool and becomes a File."""
