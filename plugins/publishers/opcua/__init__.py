"""OPC UA: results as nodes and events, jobs and recipes as methods."""
