"""What the long algorithms are made of; no file in here is an algorithm.

* :mod:`.visiting_order`: ACDC's order of receivers and senders.
* :mod:`.refinement`, :mod:`.refinement_notes`: the search of ``refine``, and what it writes down to be resumed.
* :mod:`.hard_concrete`, :mod:`.mask_training`: random masks, and how ``edge-pruning`` and ``subnetwork-probing`` train them.
"""
