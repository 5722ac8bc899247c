"""What all tests share: the profiles of hypothesis.

No example has a deadline: on a busy machine any may take long. ``quick`` is for ``scripts/test --quick``.
"""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.register_profile("quick", deadline=None, max_examples=10)
settings.load_profile("patient")
