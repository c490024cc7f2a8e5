"""Reading and checking data, for all tasks."""
