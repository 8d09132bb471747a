"""Object storage: buckets and containers of S3, Google Cloud Storage and Azure, and plain web servers."""
