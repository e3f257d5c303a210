"""What the tests of one transfer and of several share."""

from __future__ import annotations

import pytest


@pytest.fixture
def stopping(monkeypatch):
    """A function: let the networks fail once with `error`, in the piece after so many."""
    from remot_model.transferring import driving, views

    real = views.rollout.transfer

    def stop(after: int, error: BaseException) -> None:
        calls = []

        def stops(*args, **options):
            calls.append(1)
            if len(calls) == after + 1:
                raise error
            return real(*args, **options)

        monkeypatch.setattr(driving, "_CHUNK", 4)
        monkeypatch.setattr(views, "_PIECE_ON_CPU", 8)
        monkeypatch.setattr(views.rollout, "transfer", stops)

    return stop
