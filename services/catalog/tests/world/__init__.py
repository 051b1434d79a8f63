"""The rules of the catalog said again as simply as possible, everything in one dictionary: what the service is compared with."""
