"""Comparing algorithms: a grid of algorithms x tasks x models x ablations x seeds, every cell measured once and kept.

* :mod:`.grid`: the file that says what is compared; :mod:`.own`: algorithms from a user's own files.
* :mod:`.cells`: one cell, known by the hash of all that decides its numbers; :mod:`.plan`: which there are.
* :mod:`.measure`: what is measured of a cell; :mod:`.costs`: what it took.
* :mod:`.workers`: who does that; :mod:`.store`: where it is kept; :mod:`.table`: the tables made of it.
* :mod:`.benchmark`: all together.
"""
