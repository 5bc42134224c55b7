"""The second device is made known before any test runs: autograd starts its threads for the devices that it knows."""

from __future__ import annotations

from tests.devices.second import register

register()
