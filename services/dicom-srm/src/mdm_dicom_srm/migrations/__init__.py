"""Database of dicom-srm: registrations."""
