"""`make run`: the whole service on one machine."""
