"""What a user reads: the run's log, tables, the HTML report, the record of the environment."""
