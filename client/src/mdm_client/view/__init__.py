"""The viewer: a web server for one person on this machine, with a page to find studies and OHIF to look at them."""
