"""What all tests share: the profiles of hypothesis.

No example has a deadline: on a busy machine any may take long. ``quick`` is for ``scripts/test --quick``.
Both keep what hypothesis sets where ``CI`` is set: the same examples in each run.
"""

from hypothesis import settings

settings.register_profile("patient", parent=settings.default, deadline=None)
settings.register_profile("quick", parent=settings.default, deadline=None, max_examples=10)
settings.load_profile("patient")
