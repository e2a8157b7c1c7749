"""Millions of pictures: shards in, Parquet parts out, on one machine or over a cluster."""
