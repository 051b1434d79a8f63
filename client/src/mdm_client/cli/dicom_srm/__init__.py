"""Commands on a site's dicom-srm."""
