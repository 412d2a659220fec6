"""Use cases: what users and the API do with jobs, data sets and workers."""
