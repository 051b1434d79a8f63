"""The command `mdm deid`."""
