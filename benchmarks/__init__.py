"""What provserver does, measured beside what others do, in one run on one machine: `make bench`, `make bench-full`.

`__main__.py` is the command; `sections/` hold what is measured; `marks.py` what is to be reached.
"""
