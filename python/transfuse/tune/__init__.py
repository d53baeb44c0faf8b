"""Tuning: finding configurations, and keeping them."""

from transfuse.tune.wisdom import Wisdom

__all__ = ["Wisdom"]
