"""What persons see of a site and decide about it: curators what waits in quarantine, operators the rest."""
