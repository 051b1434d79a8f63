"""The hospital's PACS of a local stack: Orthanc where installed, else a small archive on pynetdicom."""
