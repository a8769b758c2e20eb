"""What every test shares."""

from hypothesis import HealthCheck, settings

# A shared machine is slow at times; a property is not wrong because its examples took long.
settings.register_profile(
    "gatewayz", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60
)
settings.load_profile("gatewayz")
