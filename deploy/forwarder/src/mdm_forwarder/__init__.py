"""Has Orthanc forward each instance it stores to dicom-srm, losing none."""
