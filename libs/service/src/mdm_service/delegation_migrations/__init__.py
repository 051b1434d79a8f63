"""Migrations of the tables for delegations, the same in every service."""
