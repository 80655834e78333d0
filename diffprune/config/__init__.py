"""What a run can be asked for, how it is composed and checked, and what it is called."""
