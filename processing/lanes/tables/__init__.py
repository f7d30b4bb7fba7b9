"""The table lane: texts and workbooks become typed Parquet, proven."""
