"""Fixtures for every test of the repository; tests/support has what they are."""

pytest_plugins = ["mdm_testing.profile", "mdm_testing.postgres", "mdm_testing.pki"]
