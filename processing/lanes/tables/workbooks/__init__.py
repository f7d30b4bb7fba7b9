"""Workbooks: their sheets and cells, by kind of file."""
