"""What the rooms of dicom-srm are put together on: settings made into rules, the site's database, its PACS and grid services."""
