"""Where results are kept: records in PostgreSQL, bytes on a disk or in S3."""
