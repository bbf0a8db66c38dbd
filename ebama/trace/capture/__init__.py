"""What a trace keeps, how it is collected call by call, and its files."""
