"""New shares for old keys: refresh, repair, re-share."""
