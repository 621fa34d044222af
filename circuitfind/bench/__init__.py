"""Comparison of algorithms: a grid of algorithms x tasks x models x ablations x seeds; every cell is measured once and kept.

* :mod:`.grid`: the file that defines the comparison; :mod:`.own`: algorithms from a user's own files.
* :mod:`.cells`: one cell, identified by the hash of everything that determines its numbers; :mod:`.plan`: all cells of a grid.
* :mod:`.measure`: the measurements of a cell; :mod:`.costs`: their cost.
* :mod:`.workers`: the processes that measure; :mod:`.store`: where results are kept; :mod:`.table`: the tables made of them.
* :mod:`.benchmark`: all of this together.
* :mod:`.methods`: algorithms compared on one behaviour of one's own, without a grid.
"""
