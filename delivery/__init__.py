"""How a File gets from the spool to S3."""
