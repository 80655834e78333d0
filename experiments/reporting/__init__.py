"""What came of a table's cells."""
