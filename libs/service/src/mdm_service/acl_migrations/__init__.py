"""Tables and functions of access control lists, shared by the services that have them."""
