"""A batch cut into smaller ones: in a module of its own, which workers of engines can import."""


def in_cuts(frame, job, size):
    """A DataFrame of pandas by a job, so many rows at a time."""
    import pandas as pd

    parts = [job(frame[i : i + size]) for i in range(0, len(frame), size)]
    return pd.concat(parts) if parts else job(frame)
