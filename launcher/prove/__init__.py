"""`qlaunch prove`: everything that the profiles claim of this machine, run and written down."""
