"""Client SDK and mdm command of the Medical Data Manager."""
