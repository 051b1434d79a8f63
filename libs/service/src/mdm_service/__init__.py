"""What two or more Medical Data Manager services share."""
