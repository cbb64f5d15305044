"""Tables of candles: CSV and Parquet files, read as columns."""
