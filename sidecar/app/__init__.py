"""Build and run the server; the only package that imports all parts.

``components`` constructs the parts, ``routes`` maps them to operations, ``server`` starts and closes them, ``run`` runs
them in one process. ``command`` is the command ``serve``, ``accounts`` are the commands for tokens and users.
"""
