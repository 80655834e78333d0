"""What differs between kinds of models, one file for each."""
