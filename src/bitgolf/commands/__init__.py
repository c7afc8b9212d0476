"""The work of each command: functions that read files and return one typed result."""
