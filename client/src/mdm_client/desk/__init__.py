"""The curators' desk: a page on the own machine for what waits in a hospital's quarantine."""
