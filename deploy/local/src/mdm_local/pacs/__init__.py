"""The hospital's PACS of a local stack: Orthanc if it is installed, else a small archive on pynetdicom."""
