"""The one file of a multipart form: parsing, and what clients send that is no such form."""
