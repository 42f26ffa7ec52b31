"""Erasing and handing out what is held on an account or a user.

``tombstones`` and ``scrub`` decide, without I/O; ``facts``, ``letters`` and ``archive`` act on what the consumers keep.
What the alerts keep is erased by ``alerts/erasure.py``; ``service/erasures.py`` puts the steps in order.
"""
