"""The parts of prepare_calibration.py, from the files of text to the file of tokens."""
