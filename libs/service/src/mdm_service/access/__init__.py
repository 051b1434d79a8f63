"""Who may do what: the method policy and access control lists."""
