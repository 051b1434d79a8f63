"""What an image costs in counts that no machine's load changes: a guard against work that grows unnoticed."""
