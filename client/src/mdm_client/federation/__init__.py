"""One query over several sites."""
