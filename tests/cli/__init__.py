"""Tests of the command line: mostly the program itself, in processes of its own."""
