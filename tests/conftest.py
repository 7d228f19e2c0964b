"""What all tests share."""

from hypothesis import HealthCheck, settings

# Times say nothing on a shared machine.
settings.register_profile("millstream", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("millstream")
