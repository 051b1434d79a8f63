"""Tests through the mdm command, against a whole stack."""
