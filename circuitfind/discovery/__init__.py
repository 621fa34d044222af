"""Discovery algorithms, one file each: every file here is an algorithm, and what they share is in two folders.

``contract/`` is what every algorithm obeys, ``search/`` what the long ones are made of. To begin, copy ``random_edges.py``, the
smallest, or ``eap.py``, the template for methods that use gradients.
"""
