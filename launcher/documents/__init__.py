"""The files and pipes of the program, typed: plan, service state, run, smoke report, comparison."""
