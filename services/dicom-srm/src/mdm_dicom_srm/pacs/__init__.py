"""The PACS behind one port: WADO-RS and C-GET."""
