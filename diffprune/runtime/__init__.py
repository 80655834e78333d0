"""What any program needs: errors, files, processes, signals, a command line."""
