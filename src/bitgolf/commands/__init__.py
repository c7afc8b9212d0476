"""What each command does: from files to one typed result."""
